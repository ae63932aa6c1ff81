"""Shapley values (1953): the mean gain of adding a player over all orders of adding players.

Exact, from a score for every subset. The values sum to the score of all players minus that of none.

Ours: exact over subsets that are scored already. Libraries such as shap estimate it, and score by
themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import factorial


def shapley(score: Mapping[frozenset[str], float], players: Sequence[str]) -> dict[str, float]:
    """Compute Shapley values.

    Args:
        score: Of each of the 2^n subsets, the empty one included.
        players: n names.

    Returns:
        player -> its value.
    """
    n = len(players)
    worth = dict.fromkeys(players, 0.0)
    for subset in powerset(players):
        weight = (
            factorial(len(subset)) * factorial(n - len(subset) - 1) / factorial(n)
            if len(subset) < n
            else 0.0
        )
        for player in players:
            if player not in subset:
                worth[player] += weight * (score[subset | {player}] - score[subset])
    return worth


def powerset(players: Sequence[str]) -> list[frozenset[str]]:
    """All subsets, small ones first."""
    return [
        frozenset(s)
        for size in range(len(players) + 1)
        for s in itertools.combinations(players, size)
    ]
