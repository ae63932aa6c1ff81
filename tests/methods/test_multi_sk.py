"""What the page of multi_sk does alone: queues that fill, and anchors that wait for them."""

import pytest
import torch
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.methods.contract import Clock
from amodal.nn.heads.linear import GatedHead
from tests.methods.bench import batch, method

FIELDS = ("picture", "words")


def anchors(terms):
    return {name for name in terms if name.startswith("anchors/")}


def test_the_anchors_wait_until_the_queues_are_full_and_then_all_four_terms_come():
    m = method("multi_sk", sources=FIELDS, queue=10)
    for step, full in ((1, False), (2, False), (3, True)):
        b = batch(m.views, size=6, sources=FIELDS, patchy=False, seed=step)
        terms = m.losses(m.features(b))
        assert len(anchors(terms)) == (4 if full else 0)
        m.on_step_end(Clock(step, 3))
    assert len(anchors(method("multi_sk", sources=FIELDS, across=False).losses(m.features(b)))) == 2


def test_a_queue_holds_the_newest_unit_vectors_in_order():
    m = method("multi_sk", sources=FIELDS, queue=4)
    seen = []
    for step in (1, 2):
        b = batch(m.views, size=3, sources=FIELDS, patchy=False, seed=step)
        features = m.features(b)
        seen.append(normalize(features.inputs["words"].values, dim=1).detach())
        m.losses(features)
        m.on_step_end(Clock(step, 2))
    assert torch.allclose(m.get_buffer("queue/own/words"), torch.cat(seen)[-4:])
    assert int(m.get_buffer("queued/words")) == 6
    assert not m.get_buffer("queue/own/words").requires_grad
    m.on_step_end(Clock(2, 2))  # of a step that had no losses
    assert int(m.get_buffer("queued/words")) == 6


def test_without_weight_it_is_info_nce_between_fields():
    m = method("multi_sk", weight=0.0)
    terms = m.losses(m.features(batch(m.views)))
    assert (
        terms.keys() == {name for name in terms if name.startswith("info_nce/")} and len(terms) == 6
    )


def test_targets_of_the_anchors_carry_no_gradient_and_scores_do():
    m = method("multi_sk", sources=FIELDS)
    features = m.features(batch(m.views, sources=FIELDS))
    own = features.inputs["picture"].values
    (gradient,) = torch.autograd.grad(m.losses(features)["anchors/picture~picture"], own)
    assert gradient.abs().sum() > 0
    units = {"own/picture": normalize(features.inputs["picture"].values, dim=1)}
    assert not m.assign(*m.scores(units, "own/picture", "own/picture")).requires_grad


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_anchors_that_is_none_is_refused(share):
    m = method("multi_sk", sources=FIELDS, assigned=share)
    with pytest.raises(ValueError, match="share between 0 and 1"):
        m.losses(m.features(batch(m.views, sources=FIELDS)))


def test_a_gated_head_weighs_what_a_linear_map_gives():
    torch.manual_seed(0)
    head, x = GatedHead(3, 4), torch.randn(5, 3)
    y = x @ head.linear.weight.T + head.linear.bias
    gate = 1 / (1 + torch.exp(-(y @ head.gate.weight.T + head.gate.bias)))
    torch.testing.assert_close(head(x), y * gate)
    assert head.spec["args"] == {"width_in": 3, "width": 4}


def test_the_papers_encoder_is_a_block_on_descriptors_and_a_gated_head():
    m = method(
        "multi_sk",
        sources=("signal", "words"),
        backbones={"signal": "resnet1d:width=8"},
        head="gated",
        blocks=1,
    )
    assert all(isinstance(m.encoder.heads[f], GatedHead) for f in ("signal", "words"))
    assert all(len(m.encoder.extra_blocks[f].blocks) == 1 for f in ("signal", "words"))
    assert "signal" not in m.encoder.trunks
    plain = method("multi_sk", sources=FIELDS)
    assert not plain.encoder.extra_blocks and not isinstance(
        plain.encoder.heads["words"], GatedHead
    )


def test_terms_of_a_minor_field_weigh_less():
    def terms(**options):
        m = method("multi_sk", sources=("picture", "words", "facts"), **options)
        return {n: v.item() for n, v in m.losses(m.features(b)).items()}

    m = method("multi_sk", sources=("picture", "words", "facts"))
    b = batch(m.views, size=6, sources=("picture", "words", "facts"), patchy=False)
    equal, lesser = terms(), terms(minor="facts", minor_weight=0.25)
    for name, value in equal.items():
        share = (0.25 if "facts" in name else 1.0) / 1.5
        assert lesser[name] == pytest.approx(3 * share * value, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "gate"}, "Did you mean gated"),
        ({"minor": "words,pictur"}, "Did you mean picture"),
        ({"minor": "words", "minor_weight": 0.0}, "more than 0, got 0.0"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(AmodalError, match=message):
        method("multi_sk", sources=FIELDS, **options)
