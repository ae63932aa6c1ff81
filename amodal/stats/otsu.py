"""Otsu's threshold: two groups of numbers with the least variance within them.

Otsu 1979, IEEE Transactions on Systems, Man, and Cybernetics 9(1), eq. 14 to 18. Ours:
scikit-image, which has it too, is no dependency of this package.
"""

from __future__ import annotations

import numpy as np

from amodal.core import AmodalError


def otsu(count_B: np.ndarray, edge_B1: np.ndarray) -> tuple[float, float]:
    """The threshold of a histogram.

    Args:
        count_B: How many numbers lie in each bin.
        edge_B1: The ends of the B bins, ascending.

    Returns:
        The upper end of the last bin of the lower group, and the share of the variance that lies
        between the groups: near 1 for two clear groups, .75 for a uniform spread, .64 for a normal
        one.

    Raises:
        AmodalError: Unless two bins hold numbers.
    """
    count = np.asarray(count_B, dtype=np.float64)
    if (count > 0).sum() < 2:
        raise AmodalError("a threshold needs numbers that differ, and these are all the same")
    middle = (edge_B1[1:] + edge_B1[:-1]) / 2
    below, total = count.cumsum()[:-1], count.sum()
    sum_below = (count * middle).cumsum()[:-1]
    mean = (count * middle).sum() / total
    spread = (count * (middle - mean) ** 2).sum() / total
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean * below - sum_below) ** 2 / (below * (total - below))
    between = np.nan_to_num(between, nan=0.0, posinf=0.0)
    # among equal ones, as over empty bins between the groups, the middle one
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    chosen = int(best[len(best) // 2])
    return float(edge_B1[chosen + 1]), float(between[chosen] / spread) if spread > 0 else 1.0
