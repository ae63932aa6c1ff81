"""TS2Vec against algorithm 1 and equations 1 to 3 of Yue et al. (2022), step by step."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, Column, Ragged, Tokens
from amodal.nn.dilated import Dilated
from amodal.nn.encoder import Encoder
from tests.golden import naive

LENGTHS, PRESENT = (5, 1, 4, 7, 2), [0, 1, 3, 4, 5]  # row 2 of six has no series
MASK, ALPHA, DROPOUT = 0.4, 0.3, 0.2


def values():
    rng = np.random.default_rng(0)
    out = [rng.normal(size=(n, 2)).astype(np.float32) for n in LENGTHS]
    out[2][3, 1] = np.nan
    return out


def series():
    return modalities.kind("series").infer(values())


def rows_of(modality, seed=0):
    packed = modality.collate(values())
    column = Column(Ragged(packed.flat.double(), packed.lengths), torch.tensor(PRESENT))
    return Batch.of(6, {"signal": column}, salt=seed)


def page(**options):
    torch.manual_seed(0)
    encoder = Encoder({"signal": series()}, size="nano", **methods.encoder_options("ts2vec"))
    encoder.trunks["signal"] = Dilated(encoder.width, depth=1)  # so that it takes a second
    small = {"mask": MASK, "instance_weight": ALPHA, "dropout": DROPOUT}
    return methods.build("ts2vec", encoder, **(small | options)).double()


class Naive(nn.Module):
    """Row by row: crops, masks, dropout; then the loss, level by level and step by step."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def steps(self, x, seed, view, start, stop, modality):
        mean, std = (torch.tensor(s, dtype=torch.float64) for s in (modality.mean, modality.std))
        known = ~x.isnan()
        inputs = torch.cat([((x - mean) / std).nan_to_num(0.0), known.double()], 1)
        token = self.encoder.tokenizers["signal"].project(inputs[start:stop])
        token = token + self.encoder.field_token["signal"]
        key = naive.bits(seed, naive.code("signal"), 1, view)
        seen = [float(naive.uniform(key, i) >= MASK) for i in range(stop - start)]
        token = token * torch.tensor(seen, dtype=torch.float64)[:, None]
        zero = torch.zeros(len(token), dtype=torch.int64)
        place = torch.zeros(len(token), 3)
        alone = Tokens(token, zero, zero, place, ("signal",), 1)
        out = self.encoder.encode({"signal": alone})["signal"].x
        key = naive.bits(seed, naive.code(f"signal:{view}"), 2)
        keys = [naive.bits(key, i) for i in range(len(out))]
        stays = [[naive.uniform(k, 0, d) >= DROPOUT for d in range(out.shape[1])] for k in keys]
        return out * torch.tensor(stays).double() / (1 - DROPOUT)

    def crops(self, seed, n):
        def between(draw, low, high):
            u = naive.uniform(seed, naive.code("signal"), 0, draw)
            return low + int(u * (high - low + 1))

        size = between(0, min(2, n), n)
        b1 = between(1, 0, n - size)
        a1, b2 = between(2, 0, b1), between(3, b1 + size, n)
        offset = between(4, -a1, n - b2)
        return a1 + offset, b1 + offset, b1 + size + offset, b2 + offset

    def terms(self, b, modality):
        parts = torch.split(b["signal"].values.flat, list(LENGTHS))
        one, other = [], []
        for row, x in zip(PRESENT, parts):
            seed = int(b.seeds[row])
            a1, b1, a2, b2 = self.crops(seed, len(x))
            one.append(self.steps(x, seed, 1, a1, a2, modality)[b1 - a1 :])
            other.append(self.steps(x, seed, 2, b1, b2, modality)[: a2 - b1])
        instance, temporal, levels = 0.0, 0.0, 0
        while True:
            levels += 1
            instance = instance + self.instance(one, other)
            if max(map(len, one)) == 1:
                break
            temporal = temporal + self.temporal(one, other)
            one, other = ([self.halved(z) for z in side] for side in (one, other))
        return {
            "instance/signal": ALPHA * instance / levels,
            "temporal/signal": (1 - ALPHA) * temporal / levels,
        }

    def halved(self, z):
        if len(z) == 1:
            return z
        return torch.stack([torch.maximum(z[2 * i], z[2 * i + 1]) for i in range(len(z) // 2)])

    def instance(self, one, other):
        found = []
        for t in range(max(map(len, one))):
            pairs = [(x[t], y[t]) for x, y in zip(one, other) if len(x) > t]
            if len(pairs) > 1:
                found += self.classified([p[0] for p in pairs], [p[1] for p in pairs])
        return sum(found) / max(len(found), 1)

    def temporal(self, one, other):
        found = []
        for x, y in zip(one, other):
            if len(x) > 1:
                found += self.classified(list(x), list(y))
        return sum(found) / max(len(found), 1)

    def classified(self, x, y):
        """Each of x among all y and all other x, and the other way around."""
        found = []
        for a, b in ((x, y), (y, x)):
            for i in range(len(a)):
                others = torch.stack([*b, *(a[j] for j in range(len(a)) if j != i)])
                found.append((others @ a[i]).logsumexp(0) - a[i] @ b[i])
        return found


def test_two_steps_are_those_of_the_paper():
    m = page()
    modality, other = m.encoder.fields["signal"], Naive(copy.deepcopy(m.encoder))
    seeds = iter([0, 0, 1, 1])
    naive.assert_equal_steps(
        m,
        lambda: m.losses(m.features(rows_of(modality, next(seeds)))),
        other,
        lambda: other.terms(rows_of(modality, next(seeds)), modality),
        {"encoder.": "encoder."},
    )


def test_crops_share_what_they_should_and_stay_inside():
    from amodal.methods.contrastive.ts2vec import draw_crops

    lengths = torch.arange(1, 21).repeat(50)
    a1, a2, b1, b2 = draw_crops(lengths, torch.arange(1000), naive.code("signal"))
    one_by_one = Naive(nn.Identity())
    for seed, crop in enumerate(zip(*(x.tolist() for x in (a1, b1, a2, b2)))):
        assert crop == one_by_one.crops(seed, int(lengths[seed]))
    assert (a1 >= 0).all() and (b2 <= lengths).all() and (a1 <= b1).all() and (a2 <= b2).all()
    assert (a2 - b1 >= lengths.clamp(max=2)).all()
    assert (a1 < b1).any() and (a2 < b2).any() and (a2 - b1 == lengths).any()


def test_the_trunk_is_residual_dilated_convolutions():
    """Depth 2: dilations 1, 2, 4; the last block has a linear map around it."""
    torch.manual_seed(0)
    trunk = Dilated(4, depth=2).double()
    x = torch.randn(7, 4, dtype=torch.float64)

    def conv(layer, h, dilation):
        out = []
        for t in range(len(h)):
            total = layer.bias
            for k in range(3):
                at = t + (k - 1) * dilation
                if 0 <= at < len(h):
                    total = total + layer.weight[:, :, k] @ h[at]
            out.append(total)
        return torch.stack(out)

    h, gelu = x, nn.GELU()
    for i, block in enumerate(trunk.blocks):
        inner = conv(block.second, gelu(conv(block.first, gelu(h), 2**i)), 2**i)
        h = (trunk.shortcut(h) if i == 2 else h) + inner
    longer = torch.cat([torch.randn(9, 4, dtype=torch.float64), x])
    row = torch.tensor([0] * 9 + [1] * 7)
    tokens = Tokens(longer, row, torch.zeros_like(row), torch.zeros(16, 3), ("signal",), 2)
    torch.testing.assert_close(trunk(tokens).x[9:], h)
    assert len(Dilated(4).blocks) == 11
    with pytest.raises(AmodalError, match="a trunk of convolutions"):
        trunk(tokens, collector=lambda outputs, tokens: outputs[0])


def test_without_training_there_is_no_dropout():
    m, quiet = page().eval(), page(dropout=0.0)
    b = rows_of(m.encoder.fields["signal"])
    torch.testing.assert_close(m.features(b)["signal:1"].flat, quiet.features(b)["signal:1"].flat)


def test_mistakes_are_sentences():
    with pytest.raises(AmodalError, match="ts2vec learns from series, and there is only words"):
        methods.build("ts2vec", Encoder({"words": modalities.make("text")}, size="nano"))
    for name, bad in (("mask", 1.0), ("dropout", -0.1), ("instance_weight", 1.5)):
        with pytest.raises(AmodalError, match=f"ts2vec.{name}"):
            page(**{name: bad})


def test_defaults_are_those_of_the_paper():
    encoder = Encoder({"signal": series()}, size="nano", **methods.encoder_options("ts2vec"))
    m = methods.build("ts2vec", encoder)
    assert (m.mask, m.instance_weight, m.dropout, m.views) == (0.5, 0.5, 0.1, ("plain",))
    assert isinstance(encoder.trunks["signal"], Dilated) and encoder.position is None
    assert encoder.pool_name == "max"
    z = encoder.double()(rows_of(encoder.fields["signal"]))
    assert z["signal"].values.shape == (5, 64)
    r = methods.page_recipe("ts2vec")
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-3, 0.01, (0.9, 0.999))
    assert (r.schedule, r.batch_size, r.steps) == ("constant", 8, 200)
