"""How fields lie relative to each other on the sphere."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Embeddings
from amodal.objectives.alignment_uniformity import alignment, uniformity


def modality_gap(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """The distance between the mean unit vectors of two fields (Liang et al. 2022,
    arXiv:2203.02053, section 2.1).

    Args:
        a_ND: Vectors of one field.
        b_MD: Vectors of the other.

    Returns:
        (): 0 where they share one region, at most 2.
    """
    a_D, b_D = (normalize(z.float(), dim=1).mean(0) for z in (a_ND, b_MD))
    gap: Tensor = torch.linalg.vector_norm(a_D - b_D)
    return gap


def geometry(embeddings: Embeddings) -> list[dict[str, str | float]]:
    """One row for each pair of sources that some records have both of.

    Returns:
        n, alignment and the uniformity of each (Wang & Isola 2020, lower is better), and the
        modality gap.
    """
    rows: list[dict[str, str | float]] = []
    for a, b in itertools.combinations(embeddings.sources, 2):
        x, y = embeddings.pair(a, b)
        if len(x) < 2:
            continue
        rows.append(
            {
                "source": a,
                "target": b,
                "n": len(x),
                "alignment": float(alignment(x.float(), y.float())),
                "uniformity source": float(uniformity(x.float())),
                "uniformity target": float(uniformity(y.float())),
                "gap": float(modality_gap(x, y)),
            }
        )
    return rows
