"""What the page of multi_sk does alone: queues that fill, and anchors that wait for them."""

import pytest
import torch
from torch.nn.functional import normalize

from amodal.methods.contract import Clock
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
