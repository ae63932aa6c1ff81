"""What AMDIM alone does: scales that have seen no more than they should, views that predict each
other, and its ablations."""

from dataclasses import replace

import pytest
import torch

from amodal import methods
from amodal.core import Column, Tokens
from amodal.nn.encoder import Encoder
from amodal.nn.local_windows import local_windows
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, fields, method

PICTURE = ("picture",)


def test_two_views_of_one_field_predict_each_other_at_three_scales():
    m = exact(method("amdim", sources=PICTURE, width=8))
    terms = gradients(m, exact(batch(m.views, sources=PICTURE)))
    pair = "picture:1~picture:2"
    assert set(terms) == {
        f"{t}/{pair}" for t in ("whole>regions", "whole>patches", "regions>regions", "penalty")
    }
    reached = {
        part
        for n, p in m.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
        for part in n.split(".")[:2]
    }
    assert reached >= {"tokenizers", "trunks", "heads"}


def test_a_scale_has_seen_no_more_than_its_name_says():
    """A changed corner changes the whole, one of four regions, and the patches it covers."""
    m = exact(method("amdim", sources=PICTURE, width=8)).eval()
    one = exact(batch(("plain",), size=2, patchy=False, sources=PICTURE))
    pixels = one["picture"].values.clone()
    pixels[:, :, :8, :8] += 1
    other = replace(one, columns={"picture": Column(pixels, one["picture"].rows)})
    a, b = m.features(one), m.features(other)
    changed = {
        k: (getattr(a, k)["picture"].flat != getattr(b, k)["picture"].flat).any(1).view(2, -1)
        for k in ("regions", "patches")
    }
    assert (a.whole["picture"].values != b.whole["picture"].values).any(1).all()
    assert changed["regions"].sum(1).tolist() == [1, 1]
    assert changed["patches"].sum(1).tolist() == [1, 1]


def test_windows_are_pieces_of_the_box_around_each_row():
    """Wherever it begins: rows 0 and 3 lie far from the origin, on both of its sides."""
    at = {
        0: [(6, 0, 0), (7, 0, 0), (8, 0, 0), (9, 0, 0)],
        1: [(0, y, x) for y in (2, 4) for x in (5, 7, 9)],
        3: [(-9, 0, 0), (-5, 0, 0)],
    }
    row = torch.tensor([r for r, places in at.items() for _ in places])
    position = torch.tensor([place for places in at.values() for place in places]).double()
    zero = torch.zeros_like(row)
    x = torch.arange(len(row))[:, None].double()
    windows, owner = local_windows(Tokens(x, row, zero, position, ("a",), 4), 2)
    lists = [windows.x[windows.row == w, 0].int().tolist() for w in range(windows.size)]
    assert lists == [[0, 1], [2, 3], [4], [5, 6], [7], [8, 9], [10], [11]]
    assert owner.tolist() == [0, 0, 1, 1, 1, 1, 3, 3]
    assert torch.equal(windows.position, position[windows.x[:, 0].long()])


OPTIONS = (
    {"middle": False},
    {"bound": 0.0},
    {"penalty": 0.0},
    {"same_view": True},
    {"mixtures": 3},
    {"parts": 1},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("fields", [PICTURE, ("words", "signal", "facts")])
def test_every_option_learns(options, fields):
    m = exact(method("amdim", sources=fields, width=8, **options))
    terms = gradients(m, exact(batch(m.views, size=9, sources=fields)))
    assert all(t.isfinite() for t in terms.values())
    assert sum(float(p.grad.abs().sum()) for p in m.encoder.parameters() if p.grad is not None) > 0
    assert any("regions>regions" in t for t in terms) == (
        options.get("middle", True) and not options.get("same_view")
    )
    assert any("penalty" in t for t in terms) == ("penalty" not in options)
    m.zero_grad()
    nothing = gradients(m, exact(batch(m.views, sources=fields, absent=fields)))
    assert sum(nothing.values()) == 0


def test_the_same_view_predicts_itself_better_than_another():
    """Before training, too: the parts of a view are in its whole."""
    across, within = (
        exact(method("amdim", sources=PICTURE, width=16, same_view=same)) for same in (False, True)
    )
    b = exact(batch(across.views, size=32, patchy=False, sources=PICTURE))
    losses = [
        sum(v for n, v in m.losses(m.features(b)).items() if "whole" in n) for m in (across, within)
    ]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    "kind",
    [
        {"trunk": "shared"},
        {"trunk": "joint"},
        {"trunk": "joint", "fusion_tokens": 2},
        {"pool": "cls"},
        {"pool": "attention"},
    ],
    ids=str,
)
def test_any_encoder_will_do(kind):
    torch.manual_seed(0)
    m = methods.build("amdim", Encoder(fields(), size="nano", **kind), width=8)
    b = batch(m.views)
    whole, part = m.features(b), m.features(b.between(2, 6))
    for name in part:
        a, c = whole[name].between(2, 6), part[name]
        flat = [getattr(x.values, "flat", x.values).detach() for x in (a, c)]
        torch.testing.assert_close(*flat, rtol=1e-4, atol=1e-5)
    assert all(t.isfinite() for t in m.losses(whole).values())
