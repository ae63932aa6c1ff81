"""Generalisation from base to new classes.

A model is adapted to half of the classes and tested on both halves, each among its own classes:
Zhou et al., CVPR 2022, arXiv:2203.05557, 4.1. The harmonic mean of two accuracies: Xian et al.,
arXiv:1707.00600, eq. 15.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from amodal.core import AmodalError


def harmonic_mean(a: float, b: float) -> float:
    """2 a b / (a + b), 0 where both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def base_and_new(classes: Sequence[str], seed: int | None = None) -> tuple[list[str], list[str]]:
    """Divide classes into base and new ones.

    Args:
        classes: Names; duplicates count once.
        seed: Of the division. None divides them in their order, as in the paper.

    Returns:
        Base classes, to adapt to, with the odd one; new classes.

    Raises:
        AmodalError: For fewer than two classes.
    """
    names = sorted(set(classes))
    if len(names) < 2:
        raise AmodalError(
            "base and new classes take two classes at least, and there is "
            f"{', '.join(names) or 'none'}"
        )
    if seed is not None:
        names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    half = (len(names) + 1) // 2
    return sorted(names[:half]), sorted(names[half:])


@dataclass(frozen=True)
class BaseToNew:
    """Accuracies on records of base and of new classes.

    Args:
        base: Accuracy among base classes.
        new: Accuracy among new classes.
    """

    base: float
    new: float

    @property
    def harmonic(self) -> float:
        """The harmonic mean of both."""
        return harmonic_mean(self.base, self.new)


def base_to_new(
    scores_NC: ArrayLike,
    truth_N: ArrayLike,
    base_C: ArrayLike,
    new_scores_NC: ArrayLike | None = None,
) -> BaseToNew:
    """Accuracy within each half of the classes.

    Args:
        scores_NC: How well each record fits each class.
        truth_N: Numbers of the true classes.
        base_C: bool, which classes are base ones.
        new_scores_NC: Other scores for records of new classes (decoupled inference), `scores_NC`
            unless given.

    Raises:
        AmodalError: If either half has no record.
    """
    truth, base = np.asarray(truth_N), np.asarray(base_C, dtype=bool)
    accuracies = []
    for name, classes, scores in (
        ("base", base, scores_NC),
        ("new", ~base, scores_NC if new_scores_NC is None else new_scores_NC),
    ):
        rows = classes[truth]
        if not rows.any():
            raise AmodalError(f"there is no record of a {name} class to test on")
        guess = np.where(classes, np.asarray(scores, dtype=np.float64), -np.inf)[rows].argmax(1)
        accuracies.append(float((guess == truth[rows]).mean()))
    return BaseToNew(*accuracies)
