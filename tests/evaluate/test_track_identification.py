"""Identification by votes, against a loop."""

import numpy as np
import pytest
import torch

from amodal.core import Column, Embeddings
from amodal.evaluate import Embedded, NotApplicable
from amodal.evaluate.protocols.track_identification import track_identification

PIECES = np.array(["fugue", "gavotte", "hymn", "jig", "lied"], dtype=object)


def snippets(noise=1.2, n=60, seed=0):
    rng = np.random.default_rng(seed)
    of = rng.integers(0, len(PIECES), n)
    own = 3 * np.random.default_rng(1).normal(size=(len(PIECES), 6))[of] + 0.5 * rng.normal(
        size=(n, 6)
    )
    columns = {}
    for source in ("score", "sound"):
        rows = np.sort(rng.permutation(n)[: n - 7])
        x = own[rows] + noise * rng.normal(size=(len(rows), 6))
        columns[source] = Column(torch.tensor(x, dtype=torch.float32), torch.from_numpy(rows))
    z = Embeddings(columns, n)
    piece = PIECES[of]
    piece[3] = None
    return Embedded(
        [str(i) for i in range(n)], z, z, {"piece": piece, "length": rng.normal(size=n)}
    )


@pytest.mark.parametrize("k", [1, 4, 100])
def test_it_is_what_a_loop_finds(k):
    test = snippets()
    result = track_identification(None, test, whole="piece", neighbours=k)
    labels = test.labels["piece"]
    for a, b in (("score", "sound"), ("sound", "score")):
        gallery = [
            (v, labels[r])
            for v, r in zip(test.aligned[b].values, test.aligned[b].rows)
            if labels[r]
        ]
        reciprocal, first = [], []
        for piece in PIECES:
            count = dict.fromkeys(PIECES, 0)
            for v, r in zip(test.aligned[a].values, test.aligned[a].rows):
                if labels[r] == piece:
                    cosine = [-float(torch.cosine_similarity(v, g, dim=0)) for g, _ in gallery]
                    for i in np.argsort(cosine)[:k]:
                        count[gallery[i][1]] += 1
            ahead = sum(c > count[piece] for c in count.values())
            tied = sum(c == count[piece] for c in count.values())
            reciprocal.append(np.mean([1 / (ahead + 1 + t) for t in range(tied)]))
            first.append(1 / tied if ahead == 0 else 0)
        assert result.value(a, "MRR, by votes", target=b) == pytest.approx(np.mean(reciprocal))
        assert result.value(a, "recall@1, by votes", target=b) == pytest.approx(np.mean(first))
    assert (
        result.rows[0]["chance"] == pytest.approx(np.mean(1 / np.arange(1, 6)))
        and result.rows[0]["n"] == 5
    )


def test_votes_find_what_single_snippets_do_not_and_all_neighbours_are_chance():
    assert (
        track_identification(None, snippets(noise=0.6), whole="piece", neighbours=5).value(
            "score", "MRR, by votes", target="sound"
        )
        > 0.9
    )
    # everybody's neighbours are everything, so the largest piece wins each time
    assert (
        track_identification(None, snippets(), whole="piece", neighbours=60).value(
            "score", "recall@1, by votes", target="sound"
        )
        <= 0.2
    )


def test_what_it_cannot_answer_it_says():
    with pytest.raises(NotApplicable, match="whole ="):
        track_identification(None, snippets())
    with pytest.raises(NotApplicable, match="needs names"):
        track_identification(None, snippets(), whole="length")
