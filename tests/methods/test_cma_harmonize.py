"""Gradient harmonization: which rows are sifted, what the step is made of, and how gamma rises."""

import pytest
import torch

from amodal.core import AmodalError, field_of
from amodal.core.protocols import CombinesGradients
from amodal.methods.contract import Clock
from amodal.objectives.info_nce import info_nce
from amodal.objectives.mil_nce import mil_nce
from amodal.objectives.realign import realign
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, method

THREE = ("picture", "words", "signal")


def made(**options):
    return exact(method("cma_harmonize", sources=THREE, **options))


def rows(m, size=8, patchy=False):
    return exact(batch(m.views, size, patchy=patchy, sources=THREE))


def test_each_other_field_is_contrasted_with_the_anchor():
    m = made(curriculum="none")
    one = rows(m)
    z = m.features(one)
    assert [s for s in z if field_of(s) == "words"] == [f"words:{k}" for k in range(1, 6)]
    terms = m.losses(z)
    texts = torch.stack([z[f"words:{k}"].values for k in range(1, 6)], 1)
    assert list(terms) == ["mil_nce/picture~words", "info_nce/picture~signal"]
    torch.testing.assert_close(
        terms["mil_nce/picture~words"], mil_nce(z["picture"].values, texts, temperature=0.07) / 2
    )
    expected = info_nce(z["picture"].values, z["signal"].values, temperature=0.07) / 2
    torch.testing.assert_close(terms["info_nce/picture~signal"], expected)


def test_rows_whose_gradients_conflict_are_left_out():
    m = made()
    z = m.features(rows(m, size=12))
    v, a = (z[s].values for s in ("picture", "signal"))
    texts = torch.stack([z[f"words:{k}"].values for k in range(1, 6)], 1).detach()
    leaf = v.detach().requires_grad_()
    g = torch.autograd.grad(info_nce(leaf, a.detach(), temperature=0.07), leaf)[0]
    h = torch.autograd.grad(mil_nce(leaf, texts, temperature=0.07), leaf)[0]
    c = torch.cosine_similarity(g, h, dim=1)
    # between two cosines, so that rounding moves no row across
    between = float(c.sort().values[5:7].mean())
    for gamma in (between, float(c.min()) - 0.1):
        m.gamma.fill_(gamma)
        aligned = c > m.gamma
        terms = m.losses(z)
        torch.testing.assert_close(
            terms["info_nce/picture~signal"], info_nce(v[aligned], a[aligned], temperature=0.07) / 2
        )
        torch.testing.assert_close(m.last_row_cosines.values, c)
    assert 0 < int((c > c.median()).sum()) < 12 and aligned.all()
    m.gamma.fill_(2.0)
    assert all(term == 0 for term in m.losses(z).values())


def test_a_row_with_one_other_field_stays():
    m = made()
    one = rows(m, patchy=True)
    m.gamma.fill_(0.999)
    z = m.features(one)
    m.losses(z)
    lowest = m.last_row_cosines
    both = [
        bool((z["words:1"].rows == r).any() and (z["signal"].rows == r).any()) for r in lowest.rows
    ]
    assert 0 < sum(both) < len(both)
    assert all(c == 1 for c, b in zip(lowest.values.tolist(), both) if not b)


def test_the_step_is_the_realigned_sum():
    m = made(curriculum="none")
    one, each = rows(m), {}
    learning = [p for p in m.parameters() if p.requires_grad]
    for name, term in m.losses(m.features(one)).items():
        grads = torch.autograd.grad(term, learning, retain_graph=True, allow_unused=True)
        each[name] = torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, learning)]
        )
    gradients(m, one)
    step = torch.cat([p.grad.flatten() for p in learning])
    torch.testing.assert_close(step, realign(each))
    plain = made(curriculum="none", realigned=False)
    assert not isinstance(plain, CombinesGradients)
    (pair,) = m.last_cosines.values()
    conflicted = {n: -v if i else v for i, (n, v) in enumerate(each.items())}
    opposed = m.combine_gradients(conflicted) if pair > 0 else m.combine_gradients(each)
    total = torch.stack(list((conflicted if pair > 0 else each).values())).sum(0)
    assert not torch.allclose(opposed, total), "a conflict changes the step"


def test_a_whole_batch_may_be_skipped():
    m = made(curriculum="batch", realigned=False)
    a, b = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -0.9])
    m.gamma.fill_(0.0)
    torch.testing.assert_close(m.combine_gradients({"a": a, "b": b}), a + b)
    assert (m.combine_gradients({"a": a, "b": -b}) == 0).all()
    torch.testing.assert_close(
        m.combine_gradients({"a": a, "b": 0 * b}), a, msg="nothing to compare"
    )


def test_gamma_rises_in_a_straight_line():
    m = made()
    assert float(m.gamma) == pytest.approx(-0.3)
    m.on_step_end(Clock(50, 100))
    assert float(m.gamma) == pytest.approx(-0.15)
    m.on_step_end(Clock(100, 100))
    assert float(m.gamma) == pytest.approx(0.0)


def test_tokens_are_dropped_but_not_of_texts():
    m, seen = made(), {}
    one = rows(m)
    full = {s: len(bag) for s, bag in m.encoder.tokenize(one).items()}
    handle = m.encoder.trunks["all"].register_forward_pre_hook(
        lambda _, args: seen.update(
            {n: int((args[0].source == i).sum()) for i, n in enumerate(args[0].names)}
        )
    )
    m.features(one)
    handle.remove()
    assert seen["picture"] == full["picture"] / 2 and seen["words"] == sum(
        full[f"words:{k}"] for k in range(1, 6)
    )


def test_errors_offer_the_nearest():
    with pytest.raises(AmodalError, match="Did you mean batch"):
        made(curriculum="bach")
    with pytest.raises(AmodalError, match="Did you mean picture"):
        made(anchor="pictures")
