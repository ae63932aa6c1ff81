"""Continued masked reconstruction: what goes on learning, and what is hidden."""

import pytest
import torch

from amodal.core import AmodalError, Batch
from tests.methods.bench import batch, method


def learnt(m):
    sum(m.losses(m.features(batch(m.views))).values()).backward()
    return {
        n.split(".")[1]
        for n, p in m.encoder.trunks.named_parameters(prefix="trunks")
        if p.grad is not None
    }


def test_text_stays_as_it_is_and_has_no_loss():
    m = method("surgical_feedback")
    assert set(m.losses(m.features(batch(m.views)))) == {
        f"reconstruct/{s}" for s in ("picture", "signal", "facts")
    }
    assert learnt(m) == {"picture", "signal", "facts"}
    assert learnt(method("surgical_feedback", fields="signal")) == {"signal"}


def test_a_share_of_places_is_hidden():
    m = method("surgical_feedback", ratio=0.75)
    bags = m.encoder.tokenize(batch(m.views, patchy=False))
    seen = m.visible(bags, Batch.of(8, {}))
    assert torch.bincount(bags["picture"].row[seen["picture"]]).tolist() == [1] * 8  # of 4 places
    assert not torch.equal(seen["picture"], m.visible(bags, Batch.of(8, {}, salt=1))["picture"])


def test_wrong_fields_are_reported():
    with pytest.raises(AmodalError, match="Did you mean signal"):
        method("surgical_feedback", fields="signl")
    with pytest.raises(AmodalError, match="text alone"):
        method("surgical_feedback", sources=("words",))
