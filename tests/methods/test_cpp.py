"""What the page of cpp does beside the contract: nothing but heads learns, first they spread, then
memberships begin where vectors are."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.train.optim import adamw
from amodal.train.step import gradients
from tests.methods.bench import batch, method


def test_heads_of_fields_share_no_space():
    assert not method("cpp").compares_fields and method("clip").compares_fields


def test_only_the_heads_learn():
    m = method("cpp")
    assert {n.split(".")[1] for n, p in m.named_parameters() if p.requires_grad} == {"heads"}


def test_it_spreads_first_and_then_clusters_from_there():
    m = method("cpp", warmup=0.5)
    whole = batch(m.views)
    assert {n.split("/")[0] for n in gradients(m, whole)} == {"spread"}
    before = {f: h.member.weight.clone() for f, h in m.encoder.heads.items()}
    adamw(m, lr=1e-2, weight_decay=0.0).step()
    assert all(torch.equal(h.member.weight, before[f]) for f, h in m.encoder.heads.items())
    m.refresh(1, None)
    m.on_stage_start(1)
    z, c = m.eval().encoder(whole)["picture"].values.chunk(2, 1)
    assert torch.equal(z, c)
    assert {n.split("/")[0] for n in m.losses(m.features(whole))} == {"spread", "compress", "norm"}
    torch.testing.assert_close(z.norm(dim=1), torch.full((len(z),), 0.5**0.5))


def test_a_warmup_of_everything_is_refused():
    with pytest.raises(AmodalError, match="warmup"):
        method("cpp", warmup=1.0)
