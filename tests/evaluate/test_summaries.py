"""Matched against shuffled pairs, and keywords."""

import math

import numpy as np
import pytest

from amodal.core import AmodalError
from amodal.evaluate.summaries import keywords, matched, overlap


def test_matched_pairs_against_one_shuffled_pair_each():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(30, 30)) + 1.5 * np.eye(30)
    found = matched(table, seed=3)
    assert found.likeness.tolist() == table.diagonal().tolist()
    assert all(x in np.delete(table[i], i) for i, x in enumerate(found.null))
    columns = [int(np.flatnonzero(table[i] == x)[0]) for i, x in enumerate(found.null)]
    assert sorted(columns) == list(range(30))  # every second part is shuffled in once
    want = np.mean([(a > b) + (a == b) / 2 for a in found.likeness for b in found.null])
    assert found.auroc == pytest.approx(want) and found.interval[0] < want < found.interval[1]
    with pytest.raises(AmodalError, match="square"):
        matched(table[:, :3])


def test_scores_fall_as_more_summaries_are_of_other_records():
    words = [f"topic{i:02d}x common method{i % 5}y alpha{i:02d}z" for i in range(40)]
    own, last = keywords(words), 2.0
    for share in (0, 0.25, 0.5, 1):
        spoilt = words.copy()
        n = round(share * len(words))
        spoilt[:n] = words[1 : n + 1] if n < len(words) else words[1:] + words[:1]
        found = matched(overlap(own, keywords(spoilt)))
        assert found.likeness.mean() < last
        last = found.likeness.mean()
        if share in (0.25, 0.5):
            assert set(range(n)) <= set(found.unlikely().tolist())


def test_keywords_are_by_count_and_rarity():
    texts = ["the cat cat sat", "the dog sat sat sat", "the fish"]
    assert keywords(texts, 1) == [{"cat"}, {"sat"}, {"fish"}]
    assert 2 * math.log(3) > math.log(3 / 2) and 3 * math.log(3 / 2) > math.log(3)
    assert keywords(["the the", "the"]) == [frozenset(), frozenset()]
    table = overlap([frozenset("abc"), frozenset()], [frozenset("bcd"), frozenset()])
    assert table.tolist() == [[0.5, 0], [0, 0]]
