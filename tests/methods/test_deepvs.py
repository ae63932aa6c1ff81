"""The score, the loss and the assignment against loops over the published formulas."""

import pytest
import torch

from amodal.core import Ragged
from amodal.core.column import shared_rows
from amodal.methods.contrastive.deepvs import assign, scores
from tests.methods.bench import batch, exact, method

SENSES = ("picture", "words")


def lists(*lengths, seed=0, width=4):
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(sum(lengths), width, dtype=torch.float64, generator=generator).requires_grad_()
    return Ragged(flat, torch.tensor(lengths))


def slow_scores(seen, words):
    table = [[sum(max(v @ s for v in picture) for s in line) for line in words.split()] for picture in seen.split()]
    return torch.stack([torch.stack(row) for row in table])


def test_a_score_is_the_sum_over_words_of_the_best_region():
    seen, words = lists(3, 5, 1), lists(2, 4, 1, 3, seed=1)
    ours, theirs = scores(seen, words), slow_scores(seen, words)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad((t * weight).sum(), [seen.flat, words.flat]) for t in (ours, theirs))):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("regions", [True, False])
def test_the_loss_is_the_published_sum_over_the_pairs(regions):
    m = exact(method("deepvs", senses=SENSES, regions=regions))
    z = m.features(exact(batch(m.views, senses=SENSES)))
    a, b = shared_rows(z["parts/picture"], z["parts/words"])
    seen, words = z["parts/picture"].values[a], z["parts/words"].values[b]
    assert set(seen.lengths.tolist()) == {5 if regions else 1}  # four patches and the whole
    table, total = slow_scores(seen, words), 0.0
    for k in range(len(table)):
        for other in range(len(table)):
            if other != k:
                total = (
                    total
                    + torch.relu(table[k, other] - table[k, k] + 1)
                    + torch.relu(table[other, k] - table[k, k] + 1)
                )
    torch.testing.assert_close(m.losses(z)["hinge/picture~words"], total / len(table))


def test_the_whole_comes_first_and_is_what_is_embedded():
    m = method("deepvs", senses=SENSES)
    b = batch(m.views, senses=SENSES)
    z, embedded = m.features(b), m.encoder(b)
    first = torch.stack([p[0] for p in z["parts/picture"].values.split()])
    torch.testing.assert_close(first, embedded["picture"].values)
    mean = torch.stack([p.mean(0) for p in z["parts/words"].values.split()])
    torch.testing.assert_close(mean, embedded["words"].values, rtol=1e-4, atol=1e-5)


def test_words_go_to_their_best_region_and_with_beta_to_their_neighbours():
    seen, words = lists(3, 5), lists(4, 2, seed=1)
    alone = assign(seen, words, 0.0)
    for regions, line, chosen in zip(seen.split(), words.split(), alone.split()):
        assert chosen.tolist() == (line @ regions.T).argmax(1).tolist()
    for line in assign(seen, words, 100.0).split():
        assert len(set(line.tolist())) == 1


def test_any_field_may_be_the_words():
    m = method("deepvs", words="facts")
    assert set(m.losses(m.features(batch(m.views)))) == {f"hinge/{s}~facts" for s in ("picture", "words", "signal")}
    with pytest.raises(ValueError, match="Did you mean facts"):
        method("deepvs", words="fact")
    with pytest.raises(ValueError, match="Did you mean hardest"):
        m = method("deepvs", over="hardst")
        m.losses(m.features(batch(m.views)))
