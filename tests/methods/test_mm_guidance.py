"""Guidance: the attention against a loop, what each loss reaches, and that the deployed field alone
is read when it counts."""

import dataclasses
import math

import pytest
import torch

from amodal.core import AmodalError, Column, Tokens
from amodal.nn.fusion.guided_pool import GuidedPool
from amodal.objectives.distill import distill
from tests.methods.bench import batch, method

GUIDES = ("words", "signal", "facts")


def test_tokens_are_weighed_by_how_they_answer_the_guide():
    torch.manual_seed(0)
    pool, lengths = GuidedPool(4), torch.tensor([3, 0, 2, 1])
    rows = torch.arange(4)
    bag = Tokens.of(torch.randn(6, 4), rows, lengths, torch.zeros(6, 3), "a", 4)
    guide = Column(torch.randn(3, 4), torch.tensor([0, 1, 2]))
    found = pool(bag, guide)
    assert found.rows.tolist() == [0, 2]  # the second has no token, the last no guide
    for k, row in enumerate(found.rows.tolist()):
        tokens = bag.x[bag.row == row]
        query = guide.values[row] @ pool.query.weight.T + pool.query.bias
        weight = [
            math.exp(float((query @ (pool.key.weight @ t)).detach()) / math.sqrt(4)) for t in tokens
        ]
        mean = sum(w * t for w, t in zip(weight, tokens)) / sum(weight)
        torch.testing.assert_close(found.values[k], mean)
    torch.nn.init.zeros_(pool.key.weight)
    torch.testing.assert_close(pool(bag, guide).values, bag.pool().at(torch.tensor([0, 1])).values)


def gradients_of(m, term, whole):
    m.zero_grad()
    m.losses(m.features(whole))[term].backward()
    return {n for n, p in m.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_who_follows_whom():
    m = method("mm_guidance", deploy="picture")
    whole = batch(m.views)
    assert set(m.losses(m.features(whole))) == {
        "predict/kind",
        "guided/predict/kind",
        "feature",
        "logit",
    }
    for term in ("predict/kind", "feature", "logit"):  # none of them reaches what the guides know
        reached = gradients_of(m, term, whole)
        assert any("trunks.picture" in n for n in reached), term
        assert not any(g in n for g in GUIDES for n in reached) and not any(
            n.startswith(("pool.", "both.")) for n in reached
        )
    reached = gradients_of(m, "guided/predict/kind", whole)
    assert {n.split(".")[0] for n in reached} == {"encoder", "pool", "guided_head"}
    assert all(any(f"trunks.{s}" in n for n in reached) for s in ("picture", *GUIDES))


def test_the_logits_that_follow_are_of_rows_with_a_guide():
    m = method("mm_guidance", feature=0.0, temperature=2.0, logit=0.5)
    whole = batch(m.views)
    lone = [i for i in range(8) if i % 3 == 0]
    few = {
        s: c if s == "picture" else c.at(~torch.isin(c.rows, torch.tensor(lone)))
        for s, c in whole.columns.items()
    }
    found = m.features(dataclasses.replace(whole, columns=few))
    logits, guided = found.outputs, found.guided
    assert set(guided.rows.tolist()) == set(logits.rows.tolist()) - set(lone) and len(guided) < len(
        logits
    )
    own = logits.values[[logits.rows.tolist().index(i) for i in guided.rows.tolist()]]
    expected = 0.5 * distill(own, guided.values, temperature=2.0)
    torch.testing.assert_close(m.losses(found)["logit"], expected)


@pytest.mark.parametrize("match", ["cosine", "l2"])
def test_the_vector_that_follows(match):
    m = method("mm_guidance", match=match, feature=3.0)
    found = m.features(batch(m.views))
    own, aim = found.student.values, found.teacher.values
    cosine = (own * aim).sum(1) / own.norm(dim=1) / aim.norm(dim=1)
    expected = 2 - 2 * cosine.mean() if match == "cosine" else ((own - aim) ** 2).mean()
    torch.testing.assert_close(m.losses(found)["feature"], 3.0 * expected)


def test_only_the_deployed_field_is_read_when_it_counts():
    m = method("mm_guidance", deploy="signal").eval()
    whole = batch(m.views)
    predicted = m.head.predictions(m.predict(whole))["kind"]
    assert len(predicted) == len(whole["signal"])
    torch.testing.assert_close(
        m.head.predictions(m.predict(whole.only("signal")))["kind"], predicted
    )


def test_locked_guides_do_not_learn_and_errors_say_what_there_is():
    m = method("mm_guidance", deploy="picture", lock=True)
    learning = {n for n, p in m.encoder.named_parameters() if p.requires_grad}
    assert not any(f"trunks.{g}" in n for g in GUIDES for n in learning) and any(
        "trunks.picture" in n for n in learning
    )
    with pytest.raises(AmodalError, match="Did you mean picture"):
        method("mm_guidance", deploy="pictur")
    with pytest.raises(AmodalError, match="Did you mean cosine"):
        method("mm_guidance", match="cosin")
    with pytest.raises(AmodalError, match="only picture"):
        method("mm_guidance", sources=("picture",))
