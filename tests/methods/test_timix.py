"""TiMix: the mixed loss against pixels cut and pasted in loops; what its options do."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, Column, name_code
from amodal.masking import mixing
from amodal.masking.hashing import hash_bits, uniform
from amodal.nn.encoder import Encoder
from tests.methods.bench import exact, method

ROWS, SIDE, PATCH = 5, 32, 8
GRID = SIDE // PATCH


@cache
def fields():
    picture = modalities.make("image", size=SIDE, channels=3, patch=PATCH)
    return {"picture": picture, "words": modalities.make("text", max_length=24, patch=4)}


def batch(keys="abcde"):
    rng, every = np.random.default_rng(0), fields()
    pixels = torch.from_numpy(rng.random((ROWS, 3, SIDE, SIDE)))
    texts = [
        every["words"].decode(t)
        for t in ("a red boat", "two cats", "the sea", "a house on a hill", "one tree")
    ]
    rows = torch.arange(ROWS)
    columns = {
        "picture": Column(pixels, rows),
        "words": Column(every["words"].collate(texts), rows),
    }
    return exact(Batch.of(ROWS, columns, list(keys)))


def build(**options):
    torch.manual_seed(0)
    return exact(methods.build("timix", Encoder(fields(), size="nano"), width=16, **options))


def by_loops(m, one, smoothing=0.1):
    """The mixed loss, from pixels that were cut and pasted one by one."""
    z = m.encoder(one)
    bag = m.encoder.encode(m.encoder.tokenize(one))["picture"]
    tokens = normalize(m.encoder.heads["picture"](bag.x), dim=1).view(ROWS, GRID, GRID, -1)
    words = normalize(z["words"].values, dim=1)
    fit = torch.einsum("nyxd,nd->nyx", tokens, words).detach()
    seeds = hash_bits(one.seeds, name_code("picture"))
    partner, drawn = mixing.partners(seeds).tolist(), float(uniform(mixing.batch_seed(seeds), 0))
    side = int(0.25 * GRID) + int(drawn * (int(0.75 * GRID) - int(0.25 * GRID) + 1))
    places = list(itertools.product(range(GRID - side + 1), repeat=2))

    def total(i, corner):
        return float(fit[i, corner[0] : corner[0] + side, corner[1] : corner[1] + side].sum())

    pixels = one["picture"].values.clone()
    for i, j in enumerate(partner):
        to, source = (
            min(places, key=lambda corner: total(i, corner)),
            max(places, key=lambda corner: total(j, corner)),
        )
        a, b, c, d, s = (PATCH * k for k in (*to, *source, side))
        pixels[i, :, a : a + s, b : b + s] = one["picture"].values[j, :, c : c + s, d : d + s]
    share = 1 - side**2 / GRID**2
    mixed = m.encoder(
        Batch(ROWS, {"picture": Column(pixels, torch.arange(ROWS))}, one.keys, one.seeds)
    )["picture"].values
    logits = normalize(mixed, dim=1) @ words.T * m.scale()
    y = torch.zeros(ROWS, ROWS, dtype=torch.float64)
    for i, j in enumerate(partner):
        y[i, i] += share
        y[i, j] += 1 - share
    loss = 0.0
    for table, target in ((logits, y), (logits.T, y.T)):
        target = (1 - smoothing) * target + smoothing / ROWS
        loss = loss - sum(target[i] @ table[i].log_softmax(0) for i in range(ROWS)) / ROWS / 2
    return loss


@pytest.mark.parametrize("keys", ["abcde", "vwxyz", "kmpqs"])
def test_the_mixed_loss_is_that_of_pixels_cut_by_captions(keys):
    m, one = build(), batch(keys)
    ours = m.losses(m.features(one))["mixed/picture~words"]
    theirs = by_loops(m, one)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    names, learning = zip(*((n, p) for n, p in m.named_parameters() if p.requires_grad))
    a, b = (torch.autograd.grad(loss, learning, allow_unused=True) for loss in (ours, theirs))
    for name, one_grad, other in zip(names, a, b):
        assert (one_grad is None) == (other is None), name
        if other is not None:
            torch.testing.assert_close(one_grad, other, rtol=1e-7, atol=1e-10, msg=name)


def test_mixing_everywhere_is_mixup_of_pixels():
    m, one = build(place="everywhere", smoothing=0.0), batch()
    seeds = hash_bits(one.seeds, name_code("picture"))
    partner, share = mixing.partners(seeds), float(mixing.beta(mixing.batch_seed(seeds), 1.0))
    pixels = share * one["picture"].values + (1 - share) * one["picture"].values[partner]
    mixed = m.encoder(
        Batch(ROWS, {"picture": Column(pixels, torch.arange(ROWS))}, one.keys, one.seeds)
    )["picture"].values
    words = m.encoder(one)["words"].values
    logits = normalize(mixed, dim=1) @ normalize(words, dim=1).T * m.scale()
    y = (
        share * torch.eye(ROWS, dtype=torch.float64)
        + (1 - share) * torch.eye(ROWS, dtype=torch.float64)[partner]
    )
    expected = -((y * logits.log_softmax(1)).sum() + (y * logits.log_softmax(0)).sum()) / ROWS / 2
    torch.testing.assert_close(
        m.losses(m.features(one))["mixed/picture~words"], expected, rtol=1e-6, atol=1e-7
    )


def test_soft_targets_are_what_the_model_made_of_both_pictures():
    m, one = build(soft=1.0), batch()
    features = m.features(one)
    hard = build(soft=0.0).losses(features)["mixed/picture~words"]
    soft = m.losses(features)["mixed/picture~words"]
    half = build(soft=0.5).losses(features)["mixed/picture~words"]
    assert abs(float((hard - soft).detach())) > 1e-4
    torch.testing.assert_close(half, (hard + soft) / 2)


def test_places_differ_and_no_weight_is_clip():
    one = batch()
    terms = {
        place: build(place=place).losses(build().features(one)) for place in ("text", "random")
    }
    assert not torch.equal(
        terms["text"]["mixed/picture~words"], terms["random"]["mixed/picture~words"]
    )
    alone = build(weight=0.0)
    assert list(alone.losses(alone.features(one))) == ["info_nce/picture~words"]


def test_errors_say_what_to_do():
    with pytest.raises(AmodalError, match="Did you mean random"):
        method("timix", place="randum")
    encoder = Encoder(fields(), size="nano")
    encoder.tokenizers["picture"].contextual = True
    with pytest.raises(AmodalError, match="cannot have a backbone"):
        methods.build("timix", encoder)
