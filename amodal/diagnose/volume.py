"""Agreement of all fields of a record at once: the volume that their vectors span.

Cicchetti et al., ICLR 2025, arXiv:2412.11959, who find that it follows accuracy downstream.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch.nn.functional import normalize

from amodal.core import Embeddings
from amodal.objectives.gram_volume import gram_volume


def volume(embeddings: Embeddings) -> list[dict[str, str | float]]:
    """One row for each set of two or more sources that two or more records have.

    Volumes of sets of different sizes do not compare.

    Returns:
        n; `matched`, the mean volume of the records' tuples (0 aligned, 1 orthogonal); `mixed`,
        that of tuples whose members come from different records; `auroc`, the share of pairs of one
        of each in which the matched tuple is the smaller (.5 by chance).
    """
    every = (
        volume_of(embeddings, names)
        for size in range(2, len(embeddings.sources) + 1)
        for names in itertools.combinations(embeddings.sources, size)
    )
    return [row for row in every if row is not None]


def volume_of(embeddings: Embeddings, names: Sequence[str]) -> dict[str, str | float] | None:
    """The row of one set of sources, see `volume`.

    Args:
        embeddings: Vectors of one space.
        names: Two or more of its sources.

    Returns:
        None where fewer records have all of them than there are.
    """
    index, vectors = embeddings.complete(names)
    if len(index) < len(names):
        return None
    unit = [normalize(v.float(), dim=1) for v in vectors]
    mixed = gram_volume([v.roll(shift, 0) for shift, v in enumerate(unit)])
    matched = gram_volume(unit).sort().values
    # ties count half: the mean of both sides of `searchsorted`
    below = torch.searchsorted(matched, mixed)
    below = below + torch.searchsorted(matched, mixed, right=True)
    return {
        "sources": " + ".join(names),
        "n": len(index),
        "matched": float(matched.mean()),
        "mixed": float(mixed.mean()),
        "auroc": float((below / (2 * len(matched))).mean()),
    }
