"""Outliers: records whose fields disagree, and records unlike others of their class.

Rizhko and Bloom 2024, arXiv:2411.08842, section on outliers: low average cosine of an object's own
fields, and of an object to the members of its class. Both find exchanged and mislabelled records.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column, Embeddings
from amodal.core.column import shared_rows
from amodal.core.embeddings import vectors as vectors_of


def disagreement(z: Embeddings) -> Column:
    """One minus the mean cosine of the pairs of fields of each row.

    Fields that lie apart as a whole (the modality gap) raise all rows with the same fields alike.
    Compare rows that have the same fields, or centre each field first.

    Args:
        z: Vectors of the aligned space.

    Returns:
        (N,) from 0 to 2, for the N rows with two fields or more.
    """
    total = vectors_of(next(iter(z.columns.values()))).new_zeros(z.size)
    pairs = torch.zeros_like(total)
    for a, b in itertools.combinations(z.sources, 2):
        x, y = z.pair(a, b)
        cosine = (normalize(x, dim=1) * normalize(y, dim=1)).sum(1)
        rows = z[a].rows[shared_rows(z[a], z[b])[0]]
        total = total.index_add(0, rows, cosine)
        pairs = pairs.index_add(0, rows, torch.ones_like(cosine))
    rows = pairs.nonzero().squeeze(1)
    return Column(1 - total[rows] / pairs[rows], rows)


def unlike_class(z_ND: Tensor, class_N: Tensor) -> Tensor:
    """One minus the mean cosine to the other rows of the same class.

    Args:
        z_ND: Vectors.
        class_N: int64.

    Returns:
        (N,) from 0 to 2; 1 for the only row of its class.

    Raises:
        ValueError: Unless there is one class for each row.
    """
    if z_ND.dim() != 2 or class_N.shape != z_ND.shape[:1]:
        raise ValueError(
            "unlike_class needs (N, D) vectors and (N,) classes, "
            f"got {tuple(z_ND.shape)} and {tuple(class_N.shape)}."
        )
    unit = normalize(z_ND, dim=1)
    number, size = torch.unique(class_N, return_inverse=True, return_counts=True)[1:]
    total = unit.new_zeros(len(size), unit.shape[1]).index_add(0, number, unit)[number]
    others = size[number] - 1
    mean = ((total * unit).sum(1) - unit.square().sum(1)) / others.clamp(min=1)
    distance: Tensor = 1 - mean
    return distance
