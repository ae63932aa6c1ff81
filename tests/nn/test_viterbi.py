"""Viterbi against every path there is."""

import itertools

import pytest
import torch

from amodal.core import Ragged
from amodal.stats.chain_crf import snippets, viterbi


def energy(scores, path, beta):
    agree = sum(a == b for a, b in itertools.pairwise(path))
    return sum(scores[j, a].item() for j, a in enumerate(path)) + beta * agree


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 5.0])
def test_no_path_is_better(beta):
    generator = torch.Generator().manual_seed(0)
    lists = [torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (5, 1, 4, 6)]
    paths = viterbi(Ragged.of(lists), beta)
    for scores, path in zip(lists, paths.split()):
        best = max(energy(scores, p, beta) for p in itertools.product(range(3), repeat=len(scores)))
        assert energy(scores, path.tolist(), beta) == pytest.approx(best, abs=1e-9)


def test_beta_from_words_alone_to_one_region_for_all():
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    lists = Ragged.of([scores, scores[:0]])
    assert viterbi(lists, 0.0).flat.tolist() == [0, 1, 0, 1]
    assert viterbi(lists, 0.8).flat.tolist() == [0, 0, 0, 1]
    assert viterbi(lists, 9.0).flat.tolist() == [0, 0, 0, 0]
    assert not len(viterbi(Ragged(scores[:0], torch.zeros(0, dtype=torch.int64)), 1.0).flat)
    with pytest.raises(ValueError, match="beta"):
        viterbi(lists, -1.0)


def test_runs_of_words_are_the_texts_of_regions():
    assert snippets(torch.tensor([4, 4, 1, 4, 4, 4])) == [(0, 2, 4), (2, 3, 1), (3, 6, 4)]
    assert snippets(torch.zeros(0, dtype=torch.int64)) == []
