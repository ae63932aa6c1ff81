"""Attention as matrix products on a CPU: its values and gradients are as near to the true ones as
those of torch's kernel."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from amodal.core import Tokens
from amodal.core import matmul as products
from amodal.core.matmul import fast_products
from amodal.nn.attention import cpu as _cpu_attention
from amodal.nn.attention.cpu import CpuAttention, suits
from amodal.nn.attention.varlen import Attention, layout_of


def gradients(attend, inputs, grad):
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = attend(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, grad)


@pytest.mark.parametrize("sharp", [1.0, 3.0], ids=["even", "sharp"])
@pytest.mark.parametrize("queries, keys", [(65, 65), (5, 40)])
@pytest.mark.parametrize("at_once", [2**19, 1], ids=["together", "row by row"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "float32"])
def test_as_exact_as_torch(queries, keys, sharp, at_once, dtype, monkeypatch):
    monkeypatch.setattr(_cpu_attention, "SCORES_PER_PIECE", at_once)
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, 2, n, 32, generator=g).to(dtype) for n in (queries, keys, keys)]
    inputs[0], inputs[1] = inputs[0] * sharp, inputs[1] * sharp
    grad = torch.randn(3, 2, queries, 32, generator=g).to(dtype)
    with fast_products():
        ours = gradients(CpuAttention.apply, inputs, grad)
    torchs = gradients(scaled_dot_product_attention, inputs, grad)
    true = gradients(scaled_dot_product_attention, [x.double() for x in inputs], grad.double())
    for mine, theirs, exact in zip(ours, torchs, true):
        assert mine.dtype is dtype
        assert (mine - exact).norm() < 2 * (theirs - exact).norm()


def test_it_is_used_where_it_suits(monkeypatch):
    torch.manual_seed(0)
    attention = Attention(32, 2)
    row = torch.arange(3).repeat_interleave(7)
    tokens = Tokens(torch.randn(21, 32), row, torch.zeros_like(row), torch.zeros(21, 3), ("a",), 3)

    def node(context) -> str:
        with context:
            out = attention(tokens.x, layout_of(tokens))
        seen, todo = set(), [out.grad_fn]
        while todo:
            if (at := todo.pop()) is not None and at not in seen:
                seen.add(at)
                todo += [parent for parent, _ in at.next_functions]
        return " ".join(n.name() for n in seen)

    assert "CpuAttention" in node(torch.autocast("cpu", torch.bfloat16))
    assert "CpuAttention" not in node(torch.autocast("cpu", enabled=False))
    if not products.reason_against() and products.measured().exact:
        assert "CpuAttention" in node(fast_products("onednn"))


def test_long_sequences_and_other_kinds_are_left_to_torch():
    q = torch.zeros(1, 1, 4, 8)
    assert suits(q.bfloat16(), q.bfloat16())
    assert not suits(q.bfloat16(), torch.zeros(1, 1, _cpu_attention.MAX_KEYS + 1, 8))
    assert not suits(q.double(), q.double())
    assert not suits(q.bfloat16(), q[:, :, :0].bfloat16())
    with fast_products():
        assert not suits(q, torch.zeros(1, 1, _cpu_attention.MAX_KEYS_FLOAT32 + 1, 8))
