"""SSMA: class maps as the label, stages, and predictions."""

from dataclasses import replace

import pytest
import torch

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, Column
from amodal.nn.encoder import Encoder
from amodal.objectives.deep_supervision import IGNORE_INDEX
from tests.methods.bench import batch, fields, method

torch.set_num_threads(1)
SMALL = {"label": "areas", "classes": 3, "width": 16, "skip": 6}


def dense(**options):
    torch.manual_seed(0)
    areas = modalities.make("image", size=16, channels=1, patch=8)
    encoder = Encoder(fields(("picture", "signal")) | {"areas": areas}, size="nano")
    return methods.build("ssma", encoder, **(SMALL | options))


def scene(size=4) -> Batch:
    """Bright pixels are of class 1, the last column of class 200, which nobody counts."""
    whole = batch(("plain",), size, patchy=False, sources=("picture", "signal"))
    pictures = torch.rand(size, 3, 16, 16).round()
    areas = (pictures[:, :1] > 0.5).float()
    areas[..., -1] = 200
    columns = whole.columns | {
        "picture": Column(pictures, torch.arange(size)),
        "areas": Column(areas / 255, torch.arange(size)),
    }
    return replace(whole, columns=columns)


def test_a_field_of_class_maps_is_the_truth_and_no_field():
    m, b = dense(), scene()
    assert list(m.encoder.fields) == ["picture", "signal"] and m.labels == ()
    truth = m.features(b).label.values
    assert truth.shape == (4, 16, 16) and (truth[..., -1] == IGNORE_INDEX).all()
    assert torch.equal(truth[..., :-1], (b["picture"].values[:, 0, :, :-1] > 0.5).long())


def test_stages_follow_one_another():
    m, b = dense(), scene()
    assert m.stages == pytest.approx((0.5, 0.83, 1.0))
    names = []
    for stage in range(3):
        m.on_stage_start(stage)
        m.zero_grad()
        terms = m.losses(m.features(b))
        sum(terms.values()).backward()
        names.append(set(terms))
        moved = any(p.grad is not None and p.grad.abs().sum() > 0 for p in m.encoder.parameters())
        fused = m.network.fuse.gate[0].weight.grad
        assert moved == (stage < 2) and (fused is not None and bool(fused.abs().sum() > 0)) == (
            stage > 0
        )
    assert names == [{"alone/picture", "alone/signal"}, {"together"}, {"together"}]
    assert dense(alone=0.0, fixed=0.0).stages == (1.0,) and dense(alone=1.0, fixed=0.0).stages == (
        1.0,
    )


def test_it_learns_which_pixels_are_bright():
    m, b = dense(alone=0.0, fixed=0.0), scene(8)
    optimizer, losses = torch.optim.AdamW(m.parameters(), 1e-2), []
    for _ in range(12):
        optimizer.zero_grad()
        loss = sum(m.losses(m.features(b)).values())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.75 * losses[0]
    assert m.probabilities(b, 16).values.shape == (8, 3, 16, 16) and m.probabilities(
        b
    ).values.shape == (8, 3, 8, 8)


def test_predictions_are_of_rows_that_have_any_field():
    m = method("ssma")
    b = batch(("plain",))
    predicted = m.probabilities(b)
    assert predicted.values.shape == (8, 3) and torch.allclose(
        predicted.values.sum(1), torch.ones(8)
    )
    gone = {s: c.at(c.rows != 2) for s, c in b.columns.items()}
    assert 2 not in m.probabilities(replace(b, columns=gone)).rows
    late = method("ssma", alone=1.0, fixed=0.0).probabilities(b).values
    assert late.shape == (8, 3) and torch.allclose(late.sum(1), torch.ones(8))


def test_bad_options_say_what_to_do():
    for options, words in (
        ({"classes": 1}, "give label"),
        ({"alone": 0.9, "fixed": 0.2}, "shares of the steps"),
        ({"label": "picture"}, "image of one channel"),
    ):
        with pytest.raises(AmodalError, match=words):
            dense(**options)
    with pytest.raises(AmodalError, match="label of this batch"):
        dense(label="sort").features(scene())
