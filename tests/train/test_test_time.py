"""Learning at test time: steps, what they touch, and that all is as it was afterwards."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target, supervised_head
from amodal.objectives.entropy import prediction_entropy
from amodal.train.test_time import TestTimeTraining, all_parameters, norms, predict_batches, tent
from tests.methods.bench import batch, fields

TARGETS = (Target("kind", "classes", ("a", "b", "c")), Target("age", "amount"))


def parts():
    torch.manual_seed(0)
    encoder = Encoder(fields(), size="nano")
    return encoder, supervised_head(encoder, TARGETS)


def test_entropy_is_the_published_sum_and_has_its_gradient():
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    slow = 0.0
    for row in logits:
        p = torch.exp(row) / torch.exp(row).sum()
        slow = slow - sum(x * torch.log(x) for x in p) / 5
    torch.testing.assert_close(prediction_entropy(logits), slow)
    torch.testing.assert_close(
        *(torch.autograd.grad(x, logits)[0] for x in (prediction_entropy(logits), slow))
    )
    empty = torch.zeros(0, 3, requires_grad=True)
    assert prediction_entropy(empty) == 0 and prediction_entropy(empty).requires_grad
    sure = torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True)
    assert torch.autograd.grad(prediction_entropy(sure), sure)[0].isfinite().all()
    with pytest.raises(ValueError, match="logits"):
        prediction_entropy(torch.zeros(3))


@pytest.mark.parametrize("online", [False, True])
def test_steps_are_those_of_the_optimizer_written_out(online):
    encoder, head = parts()
    batches = [batch(("plain",), seed=s) for s in range(3)]
    loss = tent(encoder, head)
    names = [n for n, _ in encoder.named_parameters() if "norm" in n]
    weights = {n: p for n, p in encoder.named_parameters()}
    start = {n: weights[n].detach().clone() for n in names}
    expected, now = [], dict(start)
    for b in batches:
        now = dict(now if online else start)
        for _ in range(2):  # plain gradient descent
            with torch.no_grad():
                for n in names:
                    weights[n].copy_(now[n])
            slopes = torch.autograd.grad(loss(b), [weights[n] for n in names])
            now = {n: now[n] - 0.1 * g for n, g in zip(names, slopes)}
        expected.append(now)
    with torch.no_grad():
        for n in names:
            weights[n].copy_(start[n])
    encoder.train()
    with TestTimeTraining(
        encoder, loss, steps=2, lr=0.1, optimizer=torch.optim.SGD, online=online
    ) as adapt:
        for b, wanted in zip(batches, expected):
            first, second = adapt(b)
            assert second < first
            for n in names:
                torch.testing.assert_close(weights[n].detach(), wanted[n])
    assert encoder.training and all(torch.equal(weights[n], start[n]) for n in names)
    assert all(p.requires_grad and p.grad is None for p in encoder.parameters())


def test_only_what_is_chosen_changes_and_it_comes_back_after_an_error_too():
    encoder, head = parts()
    before = {n: p.detach().clone() for n, p in encoder.named_parameters()}
    frozen = next(iter(encoder.trunks.values())).blocks[0].down.weight.requires_grad_(False)
    with pytest.raises(KeyError), TestTimeTraining(encoder, tent(encoder, head), lr=0.1) as adapt:
        adapt(batch(("plain",)))
        changed = {n for n, p in encoder.named_parameters() if not torch.equal(p, before[n])}
        assert changed and all("norm" in n for n in changed)
        raise KeyError
    assert (
        all(torch.equal(p, before[n]) for n, p in encoder.named_parameters())
        and not frozen.requires_grad
    )
    with TestTimeTraining(encoder, tent(encoder, head), select=all_parameters, lr=0.1) as adapt:
        adapt(batch(("plain",)))
        changed = {n for n, p in encoder.named_parameters() if not torch.equal(p, before[n])}
        assert any("tokenizers" in n for n in changed)


def test_predictions_follow_the_adaptation_batch_by_batch():
    encoder, head = parts()
    batches = [batch(("plain",), seed=s) for s in range(2)]
    plain = predict_batches(encoder.eval(), head, batches)
    assert plain["kind"].shape == (16, 3) and plain["age"].shape == (16,)
    with TestTimeTraining(encoder, tent(encoder, head), steps=5, lr=0.1) as adapt:
        after = predict_batches(encoder, head, batches, adapt)
    unsure = [-(p["kind"] * p["kind"].log()).sum(1).mean() for p in (after, plain)]
    assert unsure[0] < unsure[1] and torch.equal(
        predict_batches(encoder, head, batches)["kind"], plain["kind"]
    )


def test_errors():
    encoder, head = parts()
    with pytest.raises(AmodalError, match="no parameter would adapt"):
        TestTimeTraining(encoder, tent(encoder, head), select=lambda m: [])
    with pytest.raises(AmodalError, match="no label of this head"):
        tent(encoder, supervised_head(encoder, TARGETS[1:]))
    assert len(norms(encoder)) == 4 * 2 * (
        2 * 2 + 1
    )  # four trunks of two blocks with two norms each, and one at the end
