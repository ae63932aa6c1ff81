"""Low-rank differences: what they compute, what learns, and that nothing is left of them when they
are merged."""

import pytest
import torch
from torch import nn

from amodal.nn.adapters.lora import lora, merged


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 3))


def test_at_first_it_changes_nothing_and_later_it_adds_scaled_b_times_a():
    plain, low = net(), lora(net(), rank=2, alpha=6.0)
    x = torch.randn(5, 6)
    assert torch.equal(plain(x), low(x))
    change = low[0].parametrizations.weight[0]
    with torch.no_grad():
        change.b.normal_()
    weight = plain[0].weight + 6.0 / 2 * change.b @ change.a
    expected = plain[2](plain[1](x @ weight.T + plain[0].bias))
    assert torch.allclose(low(x), expected, atol=1e-6)


def test_only_the_differences_learn_and_none_has_more_rank_than_its_map():
    low = lora(net(), rank=8)
    learns = {name: p.shape for name, p in low.named_parameters() if p.requires_grad}
    assert all(name.endswith((".a", ".b")) for name in learns) and len(learns) == 4
    assert low[2].parametrizations.weight[0].a.shape == (3, 10)


def test_merged_is_a_plain_module_that_computes_the_same():
    low, x = lora(net(), rank=2), torch.randn(4, 6)
    with torch.no_grad():
        for name, p in low.named_parameters():
            if name.endswith(".b"):
                p.normal_()
    before = low(x)
    plain = merged(low)
    assert torch.allclose(plain(x), before, atol=1e-6)
    assert plain.state_dict().keys() == net().state_dict().keys()


def test_where_says_which_maps():
    low = lora(net(), rank=2, where=lambda name: name == "2")
    assert {n for n, p in low.named_parameters() if p.requires_grad} == {
        "2.parametrizations.weight.0.a",
        "2.parametrizations.weight.0.b",
    }


def test_it_agrees_with_peft_where_that_is_installed():
    peft = pytest.importorskip("peft")
    theirs = peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0", "2"]), net()
    )
    ours, x = lora(net(), rank=2, alpha=6.0), torch.randn(5, 6)
    with torch.no_grad():
        for i in (0, 2):
            change, layer = ours[i].parametrizations.weight[0], theirs[i]
            layer.lora_A["default"].weight.copy_(change.a)
            layer.lora_B["default"].weight.copy_(change.b.normal_())
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
