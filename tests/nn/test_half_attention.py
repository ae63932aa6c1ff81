"""Attention in bf16 on a CPU: the forward pass is torch's, and its gradient is as near to the true one as torch's is."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from amodal.core import Tokens
from amodal.nn import _half_attention
from amodal.nn._half_attention import HalfAttention, suits
from amodal.nn.attention import Attention, plan


def gradients(attend, inputs, grad):
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = attend(*inputs)
    return out.detach(), torch.autograd.grad(out, inputs, grad)


@pytest.mark.parametrize("sharp", [1.0, 3.0], ids=["even", "sharp"])
@pytest.mark.parametrize("queries, keys", [(65, 65), (5, 40)])
@pytest.mark.parametrize("at_once", [2**19, 1], ids=["together", "row by row"])
def test_as_exact_as_torch(queries, keys, sharp, at_once, monkeypatch):
    monkeypatch.setattr(_half_attention, "AT_ONCE", at_once)
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, 2, n, 32, generator=g).bfloat16() for n in (queries, keys, keys)]
    inputs[0], inputs[1] = inputs[0] * sharp, inputs[1] * sharp
    grad = torch.randn(3, 2, queries, 32, generator=g).bfloat16()
    out, ours = gradients(HalfAttention.apply, inputs, grad)
    same, torchs = gradients(scaled_dot_product_attention, inputs, grad)
    _, true = gradients(scaled_dot_product_attention, [x.double() for x in inputs], grad.double())
    assert torch.equal(out, same)
    for mine, theirs, exact in zip(ours, torchs, true):
        assert (mine - exact).norm() < 1.5 * (theirs - exact).norm()


def test_it_is_used_where_it_suits():
    torch.manual_seed(0)
    attention = Attention(32, 2)
    row = torch.arange(3).repeat_interleave(7)
    tokens = Tokens(torch.randn(21, 32), row, torch.zeros_like(row), torch.zeros(21, 3), ("a",), 3)

    def node(context) -> str:
        with context:
            out = attention(tokens.x, plan(tokens))
        seen, todo = set(), [out.grad_fn]
        while todo:
            if (at := todo.pop()) is not None and at not in seen:
                seen.add(at)
                todo += [parent for parent, _ in at.next_functions]
        return " ".join(n.name() for n in seen)

    assert "HalfAttention" in node(torch.autocast("cpu", torch.bfloat16))
    assert "HalfAttention" not in node(torch.autocast("cpu", enabled=False))
    with torch.no_grad():
        assert not suits(tokens.x.bfloat16(), tokens.x.bfloat16())
