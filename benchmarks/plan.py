"""`amodal plan` against steps that were run: the time of a step, and the memory beyond weights and
records.

"Ours" is what is planned and the peer is what is measured, so 1.00x is right, and above 1 the plan
promised too much. Time: what this machine does at most is measured as a data sheet would say it,
and the share of it that operations reach is set so that the first line comes out; the others are
predictions. One thread, float32, a CPU, with torch's own products and attention: those of the
training loop on some CPUs (`amodal.core.matmul`) are like no accelerator's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from amodal import methods
from amodal.nn.encoder import Encoder
from amodal.nn.gradient_checkpointing import recomputation
from amodal.plan.counting import count, weightless
from amodal.plan.examples import synthetic_records
from amodal.train.step import gradients
from benchmarks._limits import limits
from benchmarks._timing import Row, on_one_thread, peak_mib

ONLY_BY_NAME = True
TOKENS = {"image": 64, "text": 32}
SETTINGS = (  # method, size, rows, micro, and whether blocks are recomputed
    ("clip", "tiny", 32, None),
    ("clip", "nano", 32, None),
    ("clip", "nano", 128, None),
    ("clip", "tiny", 64, 16),
    ("clip", "small", 8, None),
    ("simclr", "tiny", 32, None),
    ("simclr", "tiny", 32, 8),
    ("mae", "tiny", 64, None),
    ("mae", "small", 16, None),
    ("dino", "tiny", 16, None),
    ("dino", "nano", 64, 16),
    ("clip", "tiny", 128, None),
    ("clip", "tiny", 128, None, True),
    ("clip", "small", 32, None),
    ("clip", "small", 32, None, True),
    ("mae", "small", 16, None, True),
    ("dino", "tiny", 16, 8, True),
)


@on_one_thread()
def run() -> list[Row]:
    machine, rows, efficiency = _machine(), [], None
    for name, size, number, micro, *rest in SETTINGS:
        recompute = bool(rest)
        planned = _planned(name, size, number, micro, recompute)
        real, forget = _executed(name, size, number, micro, recompute)
        real()
        times = [_seconds(real) for _ in range(5)]
        forget()  # gradients of the step before would be freed within the one that is watched
        measured = statistics.median(times)
        ideal = planned.seconds(*machine)
        efficiency = efficiency or ideal / measured
        predicted = ideal / efficiency
        what = (
            f"{name} {size}, {number} rows"
            + (f", {micro} at once" if micro else "")
            + ", recompute" * recompute
        )
        spread = (min(times) / predicted, max(times) / predicted)
        rows.append(
            Row(
                what,
                "measured",
                measured / predicted,
                1e3 * predicted,
                1e3 * measured,
                planned.peak / 2**20,
                peak_mib(real),
                spread,
            )
        )
    return rows


def _machine() -> tuple[float, float, float, float]:
    """FLOP/s in half precision (not used here) and in float32, bytes/s, and seconds from one small
    operation to the next."""
    most, small = limits(1), torch.randn(8)
    start = min(_seconds(lambda: [small + 1 for _ in range(1000)]) for _ in range(5)) / 1000
    return most.bf16, most.f32, most.memory, start


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def build(name: str, size: str):
    torch.manual_seed(0)
    return methods.build(
        name,
        Encoder(synthetic_records(TOKENS, 2).fields, size=size, **methods.encoder_options(name)),
    )


def records(method, rows: int):
    from amodal.data import Loader

    return Loader(
        synthetic_records(TOKENS, rows), range(rows), batch=rows, views=method.views
    ).load(0)[0]


def _planned(name: str, size: str, rows: int, micro: int | None, recompute: bool):
    method, exact = weightless(partial(build, name, size)), torch.autocast("cpu", enabled=False)
    return count(
        method,
        records(method, rows),
        times=1,
        micro_batch_size=micro,
        precision=exact,
        gradient_checkpointing=recompute,
    )


def _executed(
    name: str, size: str, rows: int, micro: int | None, recompute: bool
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A step, and what forgets its gradients."""
    method = build(name, size)
    batch = records(method, rows)

    def step() -> None:
        method.zero_grad(set_to_none=True)
        with recomputation(recompute):
            gradients(method, batch, micro=micro)

    return step, partial(method.zero_grad, set_to_none=True)
