"""Calibration of probabilities: expected calibration error and Brier score.

Guo, Pleiss, Sun and Weinberger, ICML 2017, arXiv:1706.04599, eq. 3, with bins of equal width; Brier
1950, summed over classes.

Ours: scikit-learn has no expected calibration error, and its Brier score rejects records of a class
without a probability.
"""

from __future__ import annotations

import numpy as np


def calibration_error(probability_NC: np.ndarray, truth_N: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: |confidence - accuracy| of each bin, averaged over records.

    Args:
        probability_NC: Predicted probabilities.
        truth_N: int64 classes, -1 for one that is none of the C.
        bins: Of the confidence, of equal width.

    Returns:
        0 to 1, 0 is best.
    """
    confidence, right = probability_NC.max(1), probability_NC.argmax(1) == truth_N
    bin_N = np.minimum((confidence * bins).astype(int), bins - 1)
    # a bin's sum of these is its count times (mean confidence - accuracy)
    gap = np.bincount(bin_N, weights=confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / len(truth_N))


def brier(probability_NC: np.ndarray, truth_N: np.ndarray) -> float:
    """Brier score: the mean squared distance of the probabilities from the one-hot truth.

    Args:
        probability_NC: Predicted probabilities.
        truth_N: int64 classes, -1 for one that is none of the C.

    Returns:
        0 to 2, 0 is best.
    """
    is_NC = np.arange(probability_NC.shape[1]) == truth_N[:, None]
    missed = truth_N < 0  # a class that has no probability here
    return float((np.square(probability_NC - is_NC).sum(1) + missed).mean())
