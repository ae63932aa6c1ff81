"""Which topics grow and which shrink over the years, corrected for multiple tests (analyses of
CS-PaperSum, row 35)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amodal.core import AmodalError


@dataclass(frozen=True)
class Trend:
    """The trend of one topic.

    Args:
        shares: (Y,) share of each year's records that have the topic.
        slope: Of the share, a year.
        p: Of a slope as large by chance, two-sided.
        q: p after the correction of Benjamini and Hochberg (1995): the share of false alarms among
            topics with a q this small.
    """

    shares: np.ndarray
    slope: float
    p: float
    q: float


def trends(
    years: Sequence[int], topics: Mapping[str, Sequence[bool]], *, draws: int = 2000, seed: int = 0
) -> dict[str, Trend]:
    """Test each topic for a trend.

    The slope is that of least squares of having the topic (0 or 1) on the year, over all records. p
    = (1 + as large) / (1 + draws), from permutations of the years, the same for all topics.

    Args:
        years: (N,) of each record.
        topics: name -> (N,) whether a record has it.
        draws: Permutations.
        seed: Of the permutations.

    Raises:
        AmodalError: If lengths differ or there is one year only.
    """
    year = np.asarray(years, dtype=np.float64)
    if len(np.unique(year)) < 2:
        raise AmodalError("a trend needs records of two years or more")
    if wrong := [f"{name} ({len(has)})" for name, has in topics.items() if len(has) != len(year)]:
        raise AmodalError(
            f"there are {len(year)} years, and other numbers of records for {', '.join(wrong)}"
        )
    has = np.array([np.asarray(t, dtype=np.float64) for t in topics.values()])
    has = has.reshape(len(topics), len(year))
    off = year - year.mean()
    spread, rng = (off**2).sum(), np.random.default_rng(seed)
    slope = has @ off / spread
    larger = np.zeros(len(topics))
    for _ in range(draws):
        larger += np.abs(has @ rng.permutation(off) / spread) >= np.abs(slope) - 1e-12
    p = (1 + larger) / (1 + draws)
    shares = np.stack([has[:, year == y].mean(1) for y in np.unique(year)], 1)
    columns = zip(topics, shares, slope.tolist(), p.tolist(), corrected(p).tolist())
    return {name: Trend(shares_Y, s, p_, q) for name, shares_Y, s, p_, q in columns}


def corrected(p: ArrayLike) -> np.ndarray:
    """q of each p (Benjamini and Hochberg, 1995): the least K p_(j) / j over all j from its rank
    up.

    Args:
        p: (K,)

    Returns:
        (K,)
    """
    p_K = np.asarray(p, dtype=np.float64)
    order = np.argsort(p_K, kind="stable")
    scaled = p_K[order] * len(p_K) / np.arange(1, len(p_K) + 1)
    q = np.empty(len(p_K))
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1)
    return q
