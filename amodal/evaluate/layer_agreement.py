"""Which layers of two backbones are most alike, so that these are aligned and not the last ones.

Gröger et al., NeurIPS 2025, arXiv:2506.16895: mutual nearest neighbours of every pair of layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from amodal.core import AmodalError, Column
from amodal.core.column import shared_rows
from amodal.data import Dataset
from amodal.diagnose.neighbours import layer_agreement, most_alike
from amodal.evaluate.layer_states import layered_bodies, states_of_layers

if TYPE_CHECKING:
    from amodal.model import Model

K = 10
Row = dict[str, str | float]


@torch.no_grad()
def agreement_of_layers(
    model: Model,
    dataset: Dataset,
    indices: Sequence[int],
    progress: Callable[[int], object] | None = None,
) -> list[Row]:
    """The layers of every two backbones that agree most.

    Args:
        model: Its backbones are asked; what it has learnt on top of them is not.
        dataset: Has the fields.
        indices: Which records.
        progress: Called with the number of records just done.

    Returns:
        A row for each two fields: their `layer` and `other layer`, counted from 1, the share of `K`
        neighbours that these have in common, that of the last layers, and that by chance.

    Raises:
        AmodalError: For fewer than two fields with backbones whose layers can be read, and for too
            few records that have both.
    """
    bodies = layered_bodies(model.encoder)
    if len(bodies) < 2:
        raise AmodalError(
            "layers are compared between two fields with backbones of timm or transformers, and "
            f"here are {', '.join(bodies) or 'none'}"
        )
    columns = states_of_layers(bodies, dataset, indices, model.device, progress)
    return [most_alike_of(columns, a, b) for a, b in itertools.combinations(columns, 2)]


def most_alike_of(columns: Mapping[str, Sequence[Column]], a: str, b: str) -> Row:
    """The layers of two fields that agree most.

    Args:
        columns: Field -> layer by layer (N, D).
        a: A field.
        b: Another one.

    Raises:
        AmodalError: For too few records that have both.
    """
    rows_a, rows_b = shared_rows(columns[a][0], columns[b][0])
    if len(rows_a) <= K:
        raise AmodalError(
            f"{K} neighbours need more than {K} records with {a} and {b}, not {len(rows_a)}"
        )
    agreement = layer_agreement(
        [column.flat[rows_a] for column in columns[a]],
        [column.flat[rows_b] for column in columns[b]],
        k=K,
    )
    first, second = most_alike(agreement)
    return {
        "source": a,
        "target": b,
        "n": len(rows_a),
        "layer": first + 1,
        "other layer": second + 1,
        "shared": float(agreement[first, second]),
        "by the last": float(agreement[-1, -1]),
        "by chance": K / (len(rows_a) - 1),
    }
