"""Maps of frozen backbones: in the encoder's own parts, in closed form, and then learned."""

import pytest
import torch
from torch import nn

from amodal.core import AmodalError, Batch, Column
from amodal.core.embeddings import vectors
from amodal.methods.shared import closed_form
from amodal.methods.shared.closed_form import Sample
from amodal.nn import config as encoder_config
from amodal.stats.ranking import ranks, reciprocal_ranks
from tests.methods.bench import batch, method

FIELDS = ("picture", "signal")


class Frozen(nn.Module):
    """Pixels as they are, as two tokens."""

    def forward(self, x):
        return x.flatten(1)[:, :64].unflatten(1, (2, 32))


def page(name, **options):
    from amodal import methods
    from amodal.nn.encoder import Encoder
    from tests.methods.bench import fields

    torch.manual_seed(0)
    every = fields(FIELDS)
    nets = encoder_config.backbones({"picture": Frozen()}, every, "nano")
    return methods.build(name, Encoder(every, size="nano", backbones=nets), **options)


def records(rows=400, seed=0):
    """Pictures whose series is a part of them."""
    g = torch.Generator().manual_seed(seed)
    code = torch.randn(rows, 4, generator=g)
    mix = torch.randn(4, 64, generator=torch.Generator().manual_seed(9))
    pictures = torch.zeros(rows, 3 * 16 * 16)
    pictures[:, :64] = code @ mix + 0.3 * torch.randn(rows, 64, generator=g)
    plain = batch(("plain",), size=4, patchy=False, sources=FIELDS)
    signal = plain["signal"].values
    series = type(signal).of([code[i, :4].reshape(2, 2).repeat(3, 1) for i in range(rows)])
    at = torch.arange(rows)
    columns = {
        "picture": Column(pictures.reshape(rows, 3, 16, 16), at),
        "signal": Column(series, at),
    }
    return Batch.of(rows, columns, [f"{seed}-{i}" for i in range(rows)])


def found(m, seen):
    with torch.no_grad():
        z = m.eval().encoder(seen)
    x, y = z.pair(*FIELDS)
    return float(reciprocal_ranks(*ranks(x, y)).mean())


@pytest.mark.parametrize("name", ["cca", "linear_heads"])
def test_the_fit_finds_records_that_it_has_not_seen(name):
    m, other = page(name), records(100, seed=1)
    before = found(m, other)
    m.train()
    m.fit_statistics(records().split(64))
    assert m.training and before < 0.15 and found(m, other) > 0.5
    project = m.encoder.tokenizers["picture"].project
    assert project.weight.requires_grad and not m.encoder.field_token["picture"].any()
    z = m.pooled(other)
    direct, parts = m.encoder(other), m.mapped(z)
    assert z["picture"].values.shape == (100, 32)
    for field in FIELDS:
        assert torch.allclose(vectors(direct[field]), vectors(parts[field]), atol=1e-5)


def test_dropout_is_around_the_mean_and_of_the_seeds_of_rows():
    m, seen = page("linear_heads", dropout=0.5), records(60)
    m.fit_statistics(records().split(64))
    m.train()
    one, same = m.features(seen), m.features(seen)
    part = m.features(seen.between(20, 30))
    plain = m.eval().features(seen)
    for field in FIELDS:
        assert torch.equal(vectors(one[field]), vectors(same[field]))
        assert torch.allclose(vectors(part[field]), vectors(one[field])[20:30], atol=1e-5)
        assert not torch.allclose(vectors(one[field]), vectors(plain[field]), atol=1e-2)
    many = records(3000, seed=2)
    with torch.no_grad():
        change = vectors(m.train().features(many)["picture"])
        change = change - vectors(m.eval().features(many)["picture"])
    assert (change.mean(0).abs() <= 5 * change.std(0) / 3000**0.5 + 1e-6).all()


def test_a_sample_holds_the_smallest_draws(monkeypatch):
    monkeypatch.setattr(closed_form, "MAX_RECORDS", 10)
    sample, draws = Sample(), torch.rand(8, 50, generator=torch.Generator().manual_seed(0))
    for drawn in draws:
        rows = torch.arange(0, 50, 2)
        sample.add({"a": Column(drawn[rows][:, None], rows)}, drawn)
    values = sample.columns()["a"].values[:, 0]
    assert sample.size <= 10 and sample.share < 0.2
    every = draws[:, ::2].flatten()
    assert torch.equal(values.sort().values, every[every < sample.share].sort().values)


def test_too_few_records_leave_the_maps_random():
    m = page("cca")
    before = m.encoder.tokenizers["picture"].project.weight.clone()
    with pytest.warns(UserWarning, match="begins random"):
        m.fit_statistics([records(40).only("picture")])
    assert torch.equal(m.encoder.tokenizers["picture"].project.weight, before)


def test_mistakes_are_reported():
    with pytest.raises(AmodalError, match="dropout is a share from 0 to below 1, not 1"):
        method("linear_heads", dropout=1.0)
    with pytest.raises(AmodalError, match="hidden is the width of a layer"):
        method("linear_heads", hidden=-1)
    with pytest.raises(AmodalError, match="compares fields"):
        method("cca", sources=("picture",))
