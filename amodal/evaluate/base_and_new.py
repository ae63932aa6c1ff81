"""From base to new classes: a model is adapted to half of the classes and tested on both halves,
each among its own classes. Zhou et al., CVPR 2022, arXiv:2203.05557, 4.1; the harmonic mean of two
accuracies is Xian et al.'s, arXiv:1707.00600, eq. 15."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amodal.core import AmodalError


def harmonic_mean(a: float, b: float) -> float:
    """2 a b / (a + b), 0 where both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def base_and_new(classes: Sequence[str], seed: int | None = None) -> tuple[list[str], list[str]]:
    """The classes in two halves, of which the first, to adapt to, has the odd one: in their order,
    as in the paper, or drawn by the seed. Raises AmodalError for fewer than two."""
    names = sorted(set(classes))
    if len(names) < 2:
        raise AmodalError(
            f"base and new classes take two classes at least, and there is {', '.join(names) or 'none'}"
        )
    if seed is not None:
        names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    half = (len(names) + 1) // 2
    return sorted(names[:half]), sorted(names[half:])


@dataclass(frozen=True)
class BaseToNew:
    """Accuracies of records of base classes among those, and of new ones among those; `harmonic`:
    their harmonic mean."""

    base: float
    new: float

    @property
    def harmonic(self) -> float:
        return harmonic_mean(self.base, self.new)


def base_to_new(scores_NC, truth_N, base_C, new_scores_NC=None) -> BaseToNew:
    """scores_NC: how well each record fits each class; truth_N: numbers of the classes; base_C:
    bool, which of them are base ones. new_scores_NC: what new classes are told by, where that is
    another score than for base ones (decoupled inference). Raises AmodalError if either half of the
    classes has no record."""
    truth, base = np.asarray(truth_N), np.asarray(base_C, dtype=bool)
    found = []
    for name, own, scores in (
        ("base", base, scores_NC),
        ("new", ~base, scores_NC if new_scores_NC is None else new_scores_NC),
    ):
        rows = own[truth]
        if not rows.any():
            raise AmodalError(f"there is no record of a {name} class to test on")
        guess = np.where(own, np.asarray(scores, dtype=np.float64), -np.inf)[rows].argmax(1)
        found.append(float((guess == truth[rows]).mean()))
    return BaseToNew(*found)
