"""A whole training step of ours with its blocks compiled by torch.compile (inductor) against the
same step as it is.

Each block is one graph; what is between blocks stays as it is. Compiling happens in the warm-up and
is not timed: the notes say how many seconds it took. Both sides must give the same loss to 1e-4.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial

from amodal.nn.blocks import blocks_of
from benchmarks import _steps as s
from benchmarks import steps
from benchmarks._timing import Row, compare, on_one_thread

SIZE = os.environ.get("AMODAL_BENCH_SIZE", "small")
BY_NAME = True
"""Not among the short ones: the compiler alone takes minutes."""
GOAL = 1.0


@on_one_thread()
def run() -> list[Row]:
    return [row for make in (steps.simclr, partial(steps.mae, "lightly")) for row in compared(make)]


def compared(make, repeat: int = 5) -> list[Row]:
    """A row for each precision.

    Raises:
        ValueError: If a compiled step has another loss.
    """
    rows = []
    for precision in s.HALF:
        what, eager = make()[:2]
        compiled = make()[1]
        for block in blocks_of(compiled.parts):
            block.compile(dynamic=True)
        start = time.perf_counter()
        loss = compiled.step(precision)
        took = time.perf_counter() - start
        expected = eager.step(precision)
        if abs(loss - expected) > 1e-4 * abs(expected) and precision == "f32":
            raise ValueError(f"{what}: the compiled step has a loss of {loss}, not {expected}")
        row = compare(
            f"{what}, {precision}, compiled",
            partial(compiled.step, precision),
            "as it is",
            partial(eager.step, precision),
            repeat=repeat,
        )
        rows.append(replace(row, goal=GOAL, note=f"Compiling {what} took {took:.0f} s."))
    return rows
