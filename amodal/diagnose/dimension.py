"""Intrinsic dimension of vectors, estimated from their neighbours, and anisotropy (the quality of
embeddings in MLEM, arXiv:2401.15935)."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Embeddings
from amodal.core.embeddings import vectors as vectors_of
from amodal.diagnose.spectrum import singular_values


def dimension(embeddings: Embeddings) -> list[dict[str, str | float]]:
    """One row for each source with three or more vectors: n, width, intrinsic dimension,
    anisotropy."""
    rows: list[dict[str, str | float]] = []
    for source, column in embeddings.columns.items():
        z = vectors_of(column).float()
        if len(z) >= 3:
            rows.append(
                {
                    "source": source,
                    "n": len(z),
                    "width": z.shape[1],
                    "intrinsic": intrinsic_dimension(z),
                    "anisotropy": anisotropy(z),
                }
            )
    return rows


def intrinsic_dimension(z_ND: Tensor, *, trimmed: float = 0.1, tile: int = 1024) -> float:
    """The TwoNN estimate (Facco et al. 2017, Scientific Reports 7:12140).

    mu is the ratio of the distances of a vector to its second and its first neighbour. The estimate
    is the slope, through the origin, of -log(1 - F(mu)) over log mu, F the share of smaller ratios.
    Vectors equal to another are left out.

    Args:
        z_ND: Vectors.
        trimmed: Share of the largest ratios that are left out (theirs: .1).
        tile: Vectors compared at once.

    Returns:
        The dimension, NaN for fewer than two ratios.
    """
    ratios = []
    for start in range(0, len(z_ND), tile):
        part = z_ND[start : start + tile].double()
        apart = torch.cdist(part, z_ND.double(), compute_mode="donot_use_mm_for_euclid_dist")
        apart[torch.arange(len(part)), torch.arange(start, start + len(part))] = torch.inf
        near = apart.topk(min(2, len(z_ND)), largest=False).values
        ratios.append(near[:, 1] / near[:, 0] if near.shape[1] == 2 else near[:0, 0])
    mu = torch.cat(ratios) if ratios else z_ND.new_zeros(0).double()
    mu = mu[mu.isfinite()].sort().values
    share = torch.arange(1, len(mu) + 1).double() / len(mu)
    count = max(round(len(mu) * (1 - trimmed)), 0)
    count -= trimmed == 0  # the largest has F = 1, whose log is infinite
    if count < 2:
        return float("nan")
    x, y = mu[:count].log(), -torch.log1p(-share[:count])
    return float((x @ y) / (x @ x))


def anisotropy(z_ND: Tensor) -> float:
    """The largest eigenvalue of the vectors' covariance over the sum of all (Razzhigaev et al.
    2024, arXiv:2311.05928).

    Returns:
        1 where vectors lie on one line, 1 / D where they fill a ball, NaN where all are equal.
    """
    squares = singular_values(z_ND - z_ND.mean(0)).square()
    if not len(squares) or not float(squares.sum()) > 0:
        return float("nan")
    return float(squares[0] / squares.sum())
