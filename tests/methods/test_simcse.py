"""SimCSE on backbones, and their dropout. The page against its paper is in tests/golden."""

import pytest
import torch
from torch import nn

from amodal import methods
from amodal.core import AmodalError
from amodal.modalities import make
from amodal.nn.backbones.body import Body
from amodal.nn.backbones.pretrained import Backbone
from amodal.nn.encoder import Encoder
from amodal.nn.hidden_dropout import SeededDropout
from amodal.train.step import gradients
from tests.methods.bench import batch, exact


class Pixels(Body):
    """A model of a library: one token a picture, with or without dropout."""

    width = 6

    def __init__(self, dropout: bool = True):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(768, 6), nn.Tanh())
        if dropout:
            self.layers.append(nn.Dropout(0.0))

    def example(self):
        return torch.zeros(1, 3, 16, 16)

    def forward(self, pictures):
        hidden = self.layers(pictures.flatten(1).to(self.layers[0].weight))
        return hidden, torch.ones(len(hidden), dtype=torch.int64), torch.zeros(len(hidden), 3)


def page(*, dropout=True, frozen=False, pool="mean", **options):
    torch.manual_seed(0)
    picture = make("image", size=16, channels=3, patch=8)
    tower = Backbone(Pixels(dropout), "pixels", 64, modality=picture, frozen=frozen)
    encoder = Encoder({"picture": picture}, size="nano", pool=pool, backbones={"picture": tower})
    return methods.build("simcse", encoder, **options)


def test_two_passes_of_a_backbone_differ_and_micro_batches_are_the_batch():
    whole, pieces = exact(page()), exact(page())
    assert isinstance(whole.encoder.tokenizers["picture"].body.layers[2], SeededDropout)
    rows = exact(batch(whole.views, size=9, sources=("picture",)))
    one, two = whole.features(rows).pair("picture:1", "picture:2")
    # six numbers a row: a few rows drop none of them
    assert torch.isclose(one, two).all(1).double().mean() < 0.5
    terms, split = gradients(whole, rows), gradients(pieces, rows, micro=2)
    for name in terms:
        torch.testing.assert_close(terms[name], split[name], rtol=1e-9, atol=1e-9)
    for a, b in zip(whole.parameters(), pieces.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)
    assert whole.encoder.tokenizers["picture"].body.layers[0].weight.grad.any()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"dropout": False}, "picture: there is no dropout in its backbone"),
        ({"pool": "cls"}, "picture: a class token sees nothing of a backbone; take --pool mean"),
    ],
)
def test_backbones_whose_passes_would_be_the_same_are_refused(wrong, message):
    with pytest.raises(AmodalError, match=f"simcse learns from two passes.*{message}.*simclr"):
        page(**wrong)


def test_a_frozen_backbone_embeds_and_is_refused_in_training():
    """A run is opened with frozen backbones."""
    frozen = page(frozen=True)
    rows = batch(frozen.views, size=4, sources=("picture",))
    with pytest.raises(AmodalError, match="picture: its backbone is frozen; --train-backbones"):
        frozen.features(rows)
    assert torch.equal(*frozen.eval().features(rows).pair("picture:1", "picture:2"))
