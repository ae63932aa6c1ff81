"""What the machine can do at most, measured in the same run and by the same clock, and how near to
it a call comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from amodal.core.matmul import fast_products
from benchmarks._timing import Row, seconds

aten = torch.ops.aten
SIDE = 2048  # of the matrices that are multiplied
COPIED = 2**26  # numbers: 256 MiB, more than any cache


@register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu)
def _attention(query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(query, key, value)  # torch counts this for GPUs alone


@register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu_backward)
def _attention_backward(grad, query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


@dataclass(frozen=True)
class Limits:
    """f32, bf16: operations of a matrix product; memory: bytes read and written by a copy. All in a
    second of `seconds`."""

    f32: float
    bf16: float
    memory: float


@cache
@fast_products()
def limits(threads: int) -> Limits:
    """The best of several tries, with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = SIDE * (4 if device == "cuda" else 1)
    found = {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(side, side, device=device).to(dtype)
        out = torch.empty_like(a)
        found[name] = 2 * side**3 / min(seconds(lambda: torch.mm(a, a, out=out)) for _ in range(6))  # noqa: B023
    a = torch.ones(COPIED, device=device)
    b = torch.empty_like(a)
    found["memory"] = 2 * a.nbytes / min(seconds(lambda: b.copy_(a)) for _ in range(6))
    torch.set_num_threads(before)
    return Limits(**found)


def counted(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and attention in a call, those that are
    computed twice twice."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def of_peak(row: Row, ours: Callable[[], object] | int, precision: str = "f32") -> Row:
    """The row with the share of the matrix product's peak that `ours`, or a call of so many
    operations, reaches: on a GPU, its utilisation of FLOPs (MFU)."""
    operations = ours if isinstance(ours, int) else counted(ours)
    peak = getattr(limits(torch.get_num_threads()), precision)
    return replace(
        row,
        flops=operations,
        share=operations / (row.ours_ms / 1000) / peak,
        limit=f"{precision} products",
    )


def of_bandwidth(row: Row, moved: float) -> Row:
    """The row with the share of the bandwidth that it reaches if it reads and writes `moved` bytes,
    which it must at least."""
    memory = limits(torch.get_num_threads()).memory
    return replace(row, share=moved / (row.ours_ms / 1000) / memory, limit="memory bandwidth")
