"""Pairs of stored views: what the contract test, which knows no two fields of one kind, does not
reach."""

import numpy as np
import pytest
import torch

from amodal import methods, modalities
from amodal.core import Batch, Column
from amodal.errors import AmodalError
from amodal.nn.encoder import Encoder


def build(further=(), **options):
    torch.manual_seed(0)
    picture = modalities.make("image", size=16, channels=3, patch=8)
    turns = modalities.kind("table").infer([{"turn": float(i)} for i in range(8)])
    encoder = Encoder(
        {"before": picture, "after": picture, "action": turns} | dict.fromkeys(further, picture),
        size="nano",
    )
    return methods.build("aa_ssl", encoder, **options)


def batch(rng, size=6):
    everyone = torch.arange(size)
    pictures = [torch.from_numpy(rng.random((size, 3, 16, 16), dtype=np.float32)) for _ in range(2)]
    columns = {
        name: Column(values, everyone) for name, values in zip(("before", "after"), pictures)
    }
    return Batch.of(size, columns | {"action": Column(torch.randn(size, 1), everyone)})


def test_one_tower_reads_the_views_before_and_after():
    m = build(first="before", second="after")
    assert set(m.encoder.fields) == {"before", "action"}
    assert not [n for n, _ in m.named_parameters() if "after" in n]
    one = batch(np.random.default_rng(0))
    z = m.features(one)
    assert set(z) == {"before:1", "before:2", "action"}
    swapped = Batch(
        one.size,
        {**one.columns, "before": one["after"], "after": one["before"]},
        one.keys,
        one.seeds,
    )
    torch.testing.assert_close(m.features(swapped)["before:1"].values, z["before:2"].values)


def test_the_order_of_the_views_matters_for_the_action_alone():
    m = build(first="before", second="after").eval()
    one = batch(np.random.default_rng(0))
    swapped = Batch(
        one.size,
        {**one.columns, "before": one["after"], "after": one["before"]},
        one.keys,
        one.seeds,
    )
    a, b = (m.losses(m.features(x)) for x in (one, swapped))
    torch.testing.assert_close(a["nt_xent/before"], b["nt_xent/before"])
    assert (a["action/before"] - b["action/before"]).abs() > 1e-4


def test_a_further_field_learns_from_two_views_of_its_own():
    m, rng = build(("depth",), first="before", second="after"), np.random.default_rng(0)
    assert m.views == {"before": ("weak",), "after": ("weak",), "depth": ("strong", "strong")}
    own = {f"depth:{i}": batch(rng)["before"] for i in (1, 2)}
    b = batch(rng)
    terms = m.losses(m.features(Batch(b.size, {**b.columns, **own}, b.keys, b.seeds)))
    assert set(terms) == {
        f"{term}/{f}" for term in ("nt_xent", "action") for f in ("before", "depth")
    }
    sum(terms.values()).backward()
    still = [n for n, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not [n for n in still if "depth" in n]


def test_half_a_pair_and_unknown_fields_are_refused():
    with pytest.raises(AmodalError, match="both fields"):
        build(first="before")
    for option, field in (("action", "action"), ("first", "before"), ("second", "after")):
        names = {"action": "action", "first": "before", "second": "after"} | {option: field[:-1]}
        with pytest.raises(AmodalError, match=f"Did you mean {field}"):
            build(**names)
