"""What the page of ucasr does alone: two stages, and heads that are the towers' outputs under the
maps of CCA."""

import pytest
import torch
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.methods.contract import Clock
from amodal.nn.encoder import Encoder
from amodal.train.step import gradients
from tests.methods import test_contract as contract
from tests.methods.bench import FIELDS, batch, exact, fields, method

TWO = ("picture", "words")


@pytest.fixture(params=[{"pretrain": 0.0}, {"pretrain": 0.0, "cca": False}], ids=str)
def second(request):
    def make(**more):
        return method("ucasr", width=6, hidden=16, **(request.param | more))

    return make


def test_the_first_stage_compares_views_and_the_second_fields():
    m = method("ucasr")
    assert m.stages == (0.5, 1.0)
    assert set(m.losses(m.features(batch(m.views)))) == {f"nt_xent/{s}" for s in FIELDS}
    assert not any(p.requires_grad for p in (*m.towers.parameters(), *m.encoder.heads.parameters()))
    m.on_stage_start(1)
    terms = m.losses(m.features(batch(m.views)))
    assert len(terms) == 6 and all(t.startswith("hinge/") for t in terms)
    assert all(p.requires_grad for p in m.towers.parameters())
    assert not any(p.requires_grad for p in m.heads.parameters())
    for share, views in ((1.0, ("strong", "strong")), (0.0, ("weak",))):
        one = method("ucasr", pretrain=share)
        assert one.stages == (1.0,) and one.views == views
        kind = "hinge/" if share == 0 else "nt_xent/"
        assert all(t.startswith(kind) for t in one.losses(one.features(batch(one.views))))


def test_the_second_stage_keeps_the_contract_for_absent_fields_and_pieces(second):
    for absent in (*[(s,) for s in FIELDS], FIELDS[1:], FIELDS):
        m = second()
        terms = gradients(m, batch(m.views, absent=absent))
        assert all(t.isfinite() for t in terms.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())
        assert all(
            p.grad is not None
            for n, p in m.named_parameters()
            if p.requires_grad and p.numel() and "trunks" in n
        )
    whole, pieces = exact(second()), exact(second())
    gradients(whole, exact(batch(whole.views, size=9)))
    gradients(pieces, exact(batch(pieces.views, size=9)), micro=2)
    contract.assert_same_gradient(contract.gradient(whole), contract.gradient(pieces))


def test_the_loss_is_the_papers_sum_over_all_mismatches(second):
    m = second(sources=TWO, margin=0.6).eval()
    features = m.features(batch(m.views, size=7, sources=TWO, patchy=False))
    value = m.losses(features)["hinge/picture~words"]
    z = {s: m.towers[s](features[s].values) for s in TWO}
    if m.cca is not None:
        m.cca.momentum = 0.0
        m.cca.update()
        z = {s: (z[s] - mean) @ turn for s, (mean, turn) in m.cca.maps().items()}
    s = (normalize(z["picture"], dim=1) @ normalize(z["words"], dim=1).T).detach()
    expected = [
        max(0.0, 0.6 - float(s[i, i]) + float(s[i, j]))
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    assert value.item() == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_after_a_step_the_encoder_gives_what_was_compared(second):
    m = second(momentum=0.0)
    b = batch(("plain",), size=12)
    features = m.features(b)
    compared = None
    m.losses(features)
    m.on_step_end(Clock(1, 2))
    z = m.encoder(b)
    for s in FIELDS:
        tower = m.towers[s](features[s].values)
        mean, turn = m.cca.maps()[s] if m.cca is not None else (0, torch.eye(6))
        compared = (tower - mean) @ turn
        torch.testing.assert_close(z[s].values, compared, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_is_refused():
    with pytest.raises(AmodalError, match="share of the steps"):
        method("ucasr", pretrain=1.5)
    with pytest.raises(AmodalError, match="only picture"):
        method("ucasr", sources=("picture",))
    assert method("ucasr", sources=("picture",), pretrain=1.0).stages == (1.0,)
    assert isinstance(
        Encoder(fields(TWO), size="nano").align(4, bias=True).heads["words"].bias,
        torch.nn.Parameter,
    )
