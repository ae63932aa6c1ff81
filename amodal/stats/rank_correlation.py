"""Rank correlation, as with human judgements of pairs in the STS tasks.

Ours: scipy's `spearmanr` agrees to 1e-15, and the last digit of a recorded claim would change.
Ranks take two lines and less time than `scipy.stats.rankdata`; `auroc.bootstrap` ranks a thousand
draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from amodal.core import AmodalError


def agreement(first_ND: torch.Tensor, second_ND: torch.Tensor, human: Sequence[float]) -> float:
    """Spearman's correlation of the cosines of N pairs of vectors with N human scores."""
    return spearman(cosine_similarity(first_ND, second_ND, dim=1).numpy(), human)


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Spearman's correlation; ties share their mean rank.

    Returns:
        -1 to 1, NaN where one side is all ties.

    Raises:
        AmodalError: For unequal lengths and fewer than two pairs.
    """
    if len(a) != len(b) or len(a) < 2:
        raise AmodalError(
            "a rank correlation needs two lists of one length, at least 2, "
            f"not of {len(a)} and {len(b)}"
        )
    x, y = (average_ranks(np.asarray(v, dtype=np.float64)) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm else float("nan")


def average_ranks(values: np.ndarray) -> np.ndarray:
    """(N,) ranks from 1 on; ties share their mean rank."""
    _, which, count = np.unique(values, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[which]
