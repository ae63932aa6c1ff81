"""Base and new classes, each half among its own."""

import numpy as np
import pytest

from amodal.core import AmodalError
from amodal.evaluate.base_and_new import base_and_new, base_to_new, harmonic_mean


def test_halves_of_the_classes():
    assert base_and_new(["b", "a", "c", "a", "e", "d"]) == (["a", "b", "c"], ["d", "e"])
    drawn = [base_and_new(list("abcdefgh"), seed) for seed in range(5)]
    assert all(sorted(a + b) == list("abcdefgh") and len(a) == 4 for a, b in drawn)
    assert len({tuple(a) for a, _ in drawn}) > 1 and base_and_new(list("abcdefgh"), 3) == drawn[3]
    with pytest.raises(AmodalError, match="two classes at least, and there is a"):
        base_and_new(["a", "a"])


def test_each_half_is_predicted_among_its_own_classes():
    rng = np.random.default_rng(0)
    scores, other, truth = (
        rng.normal(size=(60, 5)),
        rng.normal(size=(60, 5)),
        rng.integers(0, 5, 60),
    )
    base = np.array([True, False, True, True, False])

    def reference(part, score):
        right = []
        for row, t in zip(score, truth):
            if base[t] == part:
                right.append(max((s, c) for c, s in enumerate(row) if base[c] == part)[1] == t)
        return sum(right) / len(right)

    found = base_to_new(scores, truth, base)
    assert found.base == reference(True, scores) and found.new == reference(False, scores)
    assert found.harmonic == pytest.approx(1 / np.mean([1 / found.base, 1 / found.new]))
    apart = base_to_new(scores, truth, base, other)
    assert apart.base == found.base and apart.new == reference(False, other) != found.new
    assert harmonic_mean(0.0, 0.0) == 0.0
    with pytest.raises(AmodalError, match="no record of a new class"):
        base_to_new(scores, np.where(base[truth], truth, 0), base)
