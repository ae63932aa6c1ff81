"""V2L: looks and names are learnt apart and put end to end; coarse first, then fine."""

import pytest
import torch
import torch.nn.functional as F

from amodal.core import AmodalError, Tokens
from amodal.core.column import both
from amodal.nn.pooling import GemPool
from amodal.objectives.info_nce import nt_xent
from amodal.search.ensemble import ensemble
from tests.methods.bench import batch, exact, method

PAIR = ("picture", "words")


def test_stages_learn_categories_then_records():
    m = exact(method("v2l", sources=PAIR))
    b = exact(batch(m.views, sources=PAIR))
    terms = m.losses(f := m.features(b))
    assert m.stages == (0.5, 1.0) and {t.split("/")[0] for t in terms} == {"info_nce", "margin"}
    z, y = both(f.visual["words:1"], f.label)
    cosine = F.normalize(z.values, dim=1) @ F.normalize(m.prototypes, dim=1).T
    want = F.cross_entropy(30 * (cosine - 0.35 * F.one_hot(y.values, 3)), y.values) / 2
    torch.testing.assert_close(terms["margin/words"], want)
    m.on_stage_start(1)
    terms = m.losses(f := m.features(b))
    assert {t.split("/")[0] for t in terms} == {
        "info_nce",
        "nt_xent",
    } and not m.prototypes.requires_grad
    want = nt_xent(f.visual["words:1"].values, f.visual["words:2"].values, temperature=0.1) / 2
    torch.testing.assert_close(terms["nt_xent/words"], want)


def test_either_loss_teaches_its_own_encoder_alone():
    m = method("v2l")
    visual, named = (member.tokenizers for member in m.encoder.members)
    for kind, one, other in (("margin", visual, named), ("info_nce", named, visual)):
        m.zero_grad()
        terms = m.losses(m.features(batch(m.views)))
        sum(v for k, v in terms.items() if k.startswith(kind)).backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in one.parameters())
        assert all(p.grad is None or not p.grad.any() for p in other.parameters())


def test_embeddings_are_both_encoders_end_to_end():
    m = method("v2l", sources=PAIR)
    b = batch(("plain",), sources=PAIR)
    parts = [p(b)["picture"].values for p in m.encoder.members]
    whole = F.normalize(m.encoder(b)["picture"].values, dim=1)
    one = ensemble(parts)
    torch.testing.assert_close(whole @ whole.T, one @ one.T, rtol=1e-5, atol=1e-5)


def test_without_a_label_there_is_no_coarse_stage_and_coarse_alone_has_no_fine_one():
    assert not method("v2l", label="", classes=0).coarse
    alone = method("v2l", coarse=1.0)
    assert alone.stages == (1.0,) and alone.coarse
    with pytest.raises(AmodalError, match="coarse above 0"):
        method("v2l", coarse=0.0)
    with pytest.raises(AmodalError, match="two classes"):
        method("v2l", classes=1)


def test_gem_is_the_generalised_mean():
    pool = GemPool(2, power=2.5)
    x = torch.tensor([[1.0, 4.0], [3.0, -2.0], [2.0, 5.0]])
    bag = Tokens.of(x, torch.tensor([0, 2]), torch.tensor([2, 1]), torch.zeros(3, 3), "image", 3)
    got = pool(bag)
    assert got.rows.tolist() == [0, 2]
    want = [[((1 + 3**2.5) / 2) ** 0.4, (4**2.5 / 2) ** 0.4], [2.0, 5.0]]
    torch.testing.assert_close(got.values, torch.tensor(want), rtol=1e-5, atol=1e-5)
