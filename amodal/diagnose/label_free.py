"""How good an encoder may be, told without labels: RankMe, alpha-ReQ and LiDAR.

- RankMe (Garrido et al., ICML 2023, arXiv:2210.02885) is `amodal.diagnose.spectrum.effective_rank`.
- alpha-ReQ (Agrawal et al., NeurIPS 2022): how fast the eigenvalues of the covariance fall.
- LiDAR (Thilak et al., ICLR 2024, arXiv:2312.04000): the effective rank of what tells records apart
  in spite of augmentation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amodal.diagnose.spectrum import effective_rank, singular_values

MIN_VALUES = 4
"""Eigenvalues that a line is fitted through."""
HEAD, TAIL = 0.1, 0.9
"""Shares of the (logarithms of) ranks that the fit leaves out at both ends: the first eigenvalues
are those of a few directions, the last ones noise."""


def eigenvalue_decay(z_ND: Tensor) -> float:
    """alpha of lambda_j ~ j^-alpha, the eigenvalues of the covariance of vectors.

    Agrawal et al. find representations best where it is near 1: below, the variance is spread over
    directions that hold noise; above, few directions hold all.

    Args:
        z_ND: Vectors.

    Returns:
        alpha; NaN for fewer than `MIN_VALUES` eigenvalues above zero.
    """
    if len(z_ND) < 2:
        return math.nan
    values = singular_values(z_ND - z_ND.mean(0)).square()
    values = values[values > 1e-9 * values[0].clamp_min(1e-30)]
    if len(values) < MIN_VALUES:
        return math.nan
    rank = torch.arange(1, len(values) + 1, dtype=torch.float64).log()
    chosen = (rank >= HEAD * rank[-1]) & (rank <= TAIL * rank[-1])
    chosen = chosen if chosen.sum() >= MIN_VALUES else torch.ones_like(chosen)
    x, y = rank[chosen], values.log()[chosen]
    x, y = x - x.mean(), y - y.mean()
    return float(-(x @ y) / (x @ x))


def lidar(z_NQD: Tensor, delta: float = 1e-4) -> float:
    """The effective rank of the between-record scatter, whitened by that of the views of a record.

    Args:
        z_NQD: Q augmented views of N records.
        delta: Added to the diagonal of the scatter of views (their appendix: 1e-4).

    Returns:
        Between 1 and min(N - 1, D); 0 where all records are alike.

    Raises:
        ValueError: For fewer than two records or two views.
    """
    n, q, d = z_NQD.shape
    if n < 2 or q < 2:
        raise ValueError(f"LiDAR needs two records and two views of each, not {n} and {q}")
    z = z_NQD.double()
    mean = z.mean(1)
    between = torch.cov(mean.T, correction=1).reshape(d, d)
    apart = (z - mean[:, None]).reshape(-1, d)
    within = apart.T @ apart / (n * (q - 1)) + delta * torch.eye(d, dtype=z.dtype)
    values, vectors = torch.linalg.eigh(within)
    white = (vectors / values.clamp_min(delta * 1e-3).sqrt()) @ vectors.T
    scatter = white @ between @ white
    found = torch.linalg.eigvalsh(scatter).clamp_min(0)
    total = found.sum()
    if total <= 0:
        return 0.0
    share = found / total
    return float(torch.special.entr(share).sum().exp())


def label_free_scores(z_ND: Tensor) -> dict[str, float]:
    """RankMe and alpha of the vectors of one source.

    Args:
        z_ND: Vectors of at least two records.

    Returns:
        "RankMe" and "alpha"; without a value that cannot be computed.
    """
    scores = {"RankMe": float(effective_rank(z_ND)), "alpha": eigenvalue_decay(z_ND)}
    return {name: round(value, 4) for name, value in scores.items() if math.isfinite(value)}
