"""What each sense is worth: Shapley's value (1953), the mean gain of adding the sense over all orders of adding senses.

Exact, from a score for every subset. The worths sum to what all senses together score above none.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import factorial


def shapley(score: Mapping[frozenset[str], float], senses: Sequence[str]) -> dict[str, float]:
    """score: of each of the 2^n subsets, the empty one included."""
    n = len(senses)
    worth = dict.fromkeys(senses, 0.0)
    for subset in powerset(senses):
        weight = factorial(len(subset)) * factorial(n - len(subset) - 1) / factorial(n) if len(subset) < n else 0.0
        for sense in senses:
            if sense not in subset:
                worth[sense] += weight * (score[subset | {sense}] - score[subset])
    return worth


def powerset(senses: Sequence[str]) -> list[frozenset[str]]:
    """All subsets, small ones first."""
    return [frozenset(s) for size in range(len(senses) + 1) for s in itertools.combinations(senses, size)]
