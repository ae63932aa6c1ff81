"""The writer against the published recurrence, and its beam search against every text there is."""

import itertools

import pytest
import torch

from amodal.core import Ragged
from amodal.nn.generation.captioner import Captioner


def writer(alphabet=3, scale=1.0):
    torch.manual_seed(0)
    net = Captioner(4, alphabet, 6).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(scale)
    return net


def reference(net, seen, text, end=True):
    h, total = None, 0.0
    for t, word in enumerate([net.alphabet, *text]):
        x = net.embedding.weight[word]
        predicted = net.vector_proj.weight @ seen if t == 0 else net.recurrence.weight @ h
        h = torch.relu(x + predicted + net.recurrence.bias)
        wanted = text[t] if t < len(text) else net.alphabet
        if t < len(text) or end:
            total = (
                total
                - torch.log_softmax(net.classifier.weight @ h + net.classifier.bias, 0)[wanted]
            )
    return total


def test_the_loss_is_that_of_the_published_recurrence():
    net, seen = writer(), torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    texts = [[0, 2, 1], [], [2], [1, 1, 0, 2]]
    ours = net(seen, Ragged.of([torch.tensor(t, dtype=torch.int64) for t in texts]))
    theirs = torch.stack([reference(net, v, t) for v, t in zip(seen, texts)])
    torch.testing.assert_close(ours[:, 0], theirs, rtol=1e-5, atol=1e-5, check_dtype=False)
    assert ours[:, 1].tolist() == [4, 1, 2, 5]
    for a, b in zip(
        *(torch.autograd.grad(x.sum(), [seen, *net.parameters()]) for x in (ours[:, 0], theirs))
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, check_dtype=False)
    none = net(
        seen[:0], Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    )
    assert none.shape == (0, 2)


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_likeliest_text_and_one_beam_the_greedy_one(seed):
    net = writer(scale=2.0)
    seen = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    texts = [list(t) for n in range(4) for t in itertools.product(range(3), repeat=n)]
    scores = {tuple(t): -reference(net, seen, t, end=len(t) < 3).item() for t in texts}
    text, score = net.write(seen, beams=100, longest=3)
    assert scores[tuple(text)] == pytest.approx(max(scores.values()), abs=1e-5)
    assert score == pytest.approx(max(scores.values()), abs=1e-5)
    _, greedy = net.write(seen, beams=1, longest=3)
    assert greedy <= score + 1e-9
