"""Where the time of a training step of ours goes: steps of `benchmarks.steps`, each part as a share
of the step.

By torch's profiler, one step after two others, on one thread; it makes many small operations look
longer than they are. "products": the matrix products of linear layers and losses; "attention":
everything inside it, its own products too; "casts and copies": from float32 to bf16 and back, and
numbers put in another order; "optimizer": AdamW and clipping; the rest by name above 2 %.
"""

from __future__ import annotations

import math
from collections import defaultdict

from torch.profiler import ProfilerActivity, profile

from benchmarks import _steps as s
from benchmarks import steps
from benchmarks._timing import Row, on_one_thread

PEERS = steps.PEERS
PARTS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "activations": ("aten::gelu", "aten::gelu_backward"),
    "norms": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "casts and copies": (
        "aten::copy_",
        "aten::cat",
        "aten::clone",
        "aten::index",
        "aten::index_select",
    ),
}
WITHIN = {
    "attention": ("CpuAttention", "scaled_dot_product"),
    "optimizer": ("Optimizer.step", "aten::_fused_adamw_", "aten::linalg_vector_norm"),
}
SMALL = 0.02


@on_one_thread()
def run() -> list[Row]:
    return [
        row for pair in (steps.clip, steps.dino, steps.videomae) for row in profiled(*pair()[:2])
    ]


def profiled(what: str, side: s.Side) -> list[Row]:
    """A row for each part of a step in each precision, the largest first."""
    rows = []
    for precision in steps.PRECISIONS:
        for _ in range(2):
            side.step(precision)
        with profile(activities=[ProfilerActivity.CPU]) as record:
            side.step(precision)
        took = shares(record.events())
        whole = sum(took.values())
        large = {name: time for name, time in took.items() if time > SMALL * whole}
        large["everything else"] = whole - sum(large.values())
        for name, time in sorted(large.items(), key=lambda item: -item[1]):
            rows.append(part(f"{what}, {precision}: {name}", time / 1000, time / whole))
    return rows


def part(what: str, ms: float, share: float) -> Row:
    none = math.nan
    return Row(what, "", none, ms, none, none, none, (none, none), share=share, limit="of the step")


def shares(events) -> dict[str, float]:
    """part -> microseconds of the operations that belong to it, each counted once."""
    found: dict[str, float] = defaultdict(float)
    for event in events:
        found[part_of(event)] += event.self_cpu_time_total
    return found


def part_of(event) -> str:
    """By what it is inside of, or by its own name."""
    at = event
    while at is not None:
        for name, beginnings in WITHIN.items():
            if any(beginning in at.name for beginning in beginnings):
                return name
        at = at.cpu_parent
    return next(
        (name for name, keys in PARTS.items() if event.name in keys),
        event.name.removeprefix("aten::"),
    )
