"""MERL beyond the contract: which losses there are, and what the two latent views share."""

import math

import pytest
import torch
import torch.nn.functional as F

from amodal.train.step import gradients
from tests.methods.bench import batch, exact, method

FIELDS = ("words", "signal")


def reference(a, b, tau):
    s = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / tau
    ways = [-float(torch.log_softmax(m[i], 0)[i]) for m in (s, s.T) for i in range(len(s))]
    return sum(ways) / len(ways)


def test_losses_are_two_contrasts_of_vectors_made_by_hand():
    m = exact(method("merl", sources=FIELDS, weight=0.5, dropout=0.2))
    b = exact(batch(m.views, sources=FIELDS))
    features = m.features(b)
    with torch.no_grad():
        found = {n: float(t) for n, t in m.losses(features).items()}
        z = m.encoder(b)
        assert found["info_nce/words~signal"] == pytest.approx(
            reference(*z.pair("words", "signal"), 0.07), rel=1e-6
        )
        # the latent views: the mean token of the signal, one matrix and one mask each
        bag = m.encoder.encode(m.encoder.tokenize(b.only("signal")))["signal"]
        mean = torch.stack([bag.x[bag.row == r].mean(0) for r in b["signal"].rows])
        views = [latent["signal"].values for latent in (features.latent_1, features.latent_2)]
        for view, linear in zip(views, m.latent_maps["signal"]):
            whole = mean @ linear.weight.T / 0.8
            undropped = view != 0
            torch.testing.assert_close(view[undropped], whole[undropped])
            assert 0.7 < float(undropped.double().mean()) < 0.9
        assert not torch.equal(views[0] != 0, views[1] != 0)
        assert found["latent/signal"] == pytest.approx(0.5 * reference(*views, 0.07), rel=1e-6)
        assert set(found) == {"info_nce/words~signal", "latent/signal"}


def test_without_weight_it_is_cross_modal_alignment_alone():
    m = method("merl", sources=FIELDS, weight=0.0)
    terms = gradients(m, batch(m.views, sources=FIELDS))
    assert set(terms) == {"info_nce/words~signal"}
    assert all(p.grad is None for p in m.latent_maps.parameters())


def test_masks_change_from_step_to_step_with_the_seeds():
    m = method("merl", sources=FIELDS)
    b, later = batch(m.views, sources=FIELDS), batch(m.views, sources=FIELDS, seed=1)
    moved = type(b)(b.size, b.columns, b.keys, later.seeds)
    one, repeated, other = (m.features(x).latent_1["signal"].values for x in (b, b, moved))
    assert torch.equal(one, repeated) and not torch.equal(one != 0, other != 0)


def test_the_temperature_is_fixed():
    assert not any(
        "scale" in n or "temperature" in n
        for n, _ in method("merl", sources=FIELDS).named_parameters()
    )
    assert math.isclose(method("merl", sources=FIELDS).temperature, 0.07)
