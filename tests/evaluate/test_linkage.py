"""Links and their scores against loops and scikit-learn; texts against recursion."""

import sys
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from amodal.core import AmodalError
from amodal.evaluate.linkage import adjusted_rand, best_threshold, nearest_exemplar, single_linkage
from amodal.modalities.shared.ocr import garble
from amodal.stats.string_similarity import edit_distances, edit_similarity, jaccard, ngrams


def test_adjusted_rand_is_scikit_learns():
    rng = np.random.default_rng(0)
    for k in (1, 3, 20):
        a, b = rng.integers(0, k, 30), rng.integers(0, 4, 30)
        assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b))
        assert adjusted_rand(a, a + 7) == 1
    assert adjusted_rand(np.arange(9), np.arange(9)) == 1


def test_single_linkage_is_dbscan_with_one_sample():
    torch.manual_seed(0)
    z = torch.randn(80, 3)
    for threshold in (0.9, 0.97):
        theirs = DBSCAN(eps=1 - threshold, min_samples=1, metric="cosine").fit(z.numpy()).labels_
        ours = single_linkage(z, threshold, tile=7)
        assert adjusted_rand(theirs, ours) == 1 and 1 < ours.max() + 1 < 80


def test_nearest_exemplar_or_none():
    torch.manual_seed(1)
    keys, queries = torch.randn(9, 4), torch.randn(20, 4)
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], keys[None], dim=2)
    found = nearest_exemplar(queries, keys, threshold=0.8, tile=6)
    for i in range(20):
        assert int(found[i]) == (int(cosine[i].argmax()) if cosine[i].max() >= 0.8 else -1)
    assert (found < 0).any() and (nearest_exemplar(queries, keys) >= 0).all()
    assert best_threshold(lambda t: -abs(round(t) - 2), [0.0, 1.6, 2.0, 2.4, 3.0]) == 2.0


def slow_distance(a, b):
    @cache
    def far(i, j):
        if not i or not j:
            return i + j
        return min(far(i - 1, j) + 1, far(i, j - 1) + 1, far(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return far(len(a), len(b))


def test_edit_distance_and_jaccard():
    texts = ["Olonkinbyen", "Prudhoe Bay", "", "Bray", "Prudho Bsy", "byen"]
    for text in texts:
        assert edit_distances(text, texts).tolist() == [
            slow_distance(text, other) for other in texts
        ]
    assert edit_similarity("Bray", ["Bray", "Bay", "xxxx"]).tolist() == [1, 0.75, 0]
    assert ngrams("ab", 2) == {" a", "ab", "b "}
    assert jaccard("ab", [ngrams("ab", 2), ngrams("b", 2)], 2).tolist() == [1, 0.25]


def test_garbled_text_has_about_that_many_errors():
    rng = np.random.default_rng(0)
    text = "thequickbrownfoxjumpsoverthelazydog" * 60
    assert garble(text, 0.0, rng) == text
    for rate in (0.05, 0.3):
        distance = edit_distances(garble(text, rate, rng), [text])[0] / len(text)
        assert 0.8 * rate < distance < 1.5 * rate
    assert all(garble("a", 1.0, rng).strip() for _ in range(50))
    with pytest.raises(ValueError, match="chance"):
        garble("a", 2.0, rng)


def test_without_rapidfuzz_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(AmodalError, match=r"rapidfuzz`: pip install 'amodal\[text\]'"):
        edit_distances("a", ["b"])
