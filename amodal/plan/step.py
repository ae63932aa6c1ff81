"""The cost of one optimizer step at any number of rows, from counts of steps with few.

Features are computed row by row, so what they cost is linear in the rows and, of micro-batches, in
their number and in their size: two counts, or four, give it at any size. Losses compare the rows of
all processes, which is counted with all of them up to `MOST`, and beyond that continued as the
square that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from amodal.core import Batch
from amodal.methods.contract import Method
from amodal.plan.counting import Count, count, count_losses

ROWS = (48, 96)
"""Rows that are counted, of more."""
PIECES, PIECE = (3, 6), (8, 16)
"""Micro-batches and their sizes that are counted, of more."""
MOST = 8192
"""Rows whose losses are counted, of more."""

EXAMPLES = 96
"""Rows that are needed for this."""

Terms = Sequence[tuple[float, Count]]


@dataclass(frozen=True)
class Cost:
    """A step of one process as a weighted sum of counts."""

    terms: Terms

    def of(self, what: Callable[[Count], float]) -> float:
        return sum(weight * what(counted) for weight, counted in self.terms)

    @property
    def flops(self) -> float:
        return self.of(lambda c: c.flops)

    @property
    def peak(self) -> float:
        """Bytes beyond weights, optimizer state and the batch."""
        # each is continued by itself, and the whole could come out as less than a part of it
        return max(self.of(lambda c: c.peak), self.beside)

    @property
    def beside(self) -> float:
        """The same without the gradients of the weights."""
        return self.of(lambda c: c.beside)

    def seconds(self, half: float, single: float, bandwidth: float, launch: float) -> float:
        return self.of(lambda c: c.seconds(half, single, bandwidth, launch))


class Steps:
    """method: weightless; records: `EXAMPLES` example rows; precision: the context that features
    are computed in; world: processes."""

    def __init__(
        self,
        method: Method,
        records: Batch,
        precision: Callable[[], AbstractContextManager],
        world: int,
    ):
        self.method, self.records, self.precision, self.world = method, records, precision, world
        self._done: dict[tuple, Count] = {}

    def cost(self, rows: int, micro: int | None = None, recompute: bool = False) -> Cost:
        """Of a process that has `rows`, `micro` of them at once; recompute: with activation
        checkpointing."""
        points: list[tuple[int, int | None, float]]
        if micro is None or micro >= rows:
            points = (
                [(rows, None, 1.0)]
                if rows <= ROWS[1]
                else [(r, None, w) for r, w in line(rows, ROWS)]
            )
        else:
            sizes = [(micro, 1.0)] if micro <= PIECE[1] else line(micro, PIECE)
            pieces = (
                [(rows / micro, 1.0)] if rows <= PIECES[1] * micro else line(rows / micro, PIECES)
            )
            points = [(round(n * m), m, a * b) for n, a in pieces for m, b in sizes]
        whole = rows * self.world
        terms = [(weight, self._step(r, m, min(whole, MOST), recompute)) for r, m, weight in points]
        return Cost([*terms, *self._beyond(whole)])

    def losses(self, rows: int) -> Cost:
        """The losses of the whole batch, `rows` on each process."""
        whole = rows * self.world
        few = min(rows, 16)
        return Cost([(1.0, self._losses(few, min(whole, MOST))), *self._beyond(whole)])

    def _beyond(self, whole: int) -> Terms:
        """What losses of `whole` rows cost more than those of `MOST`."""
        if whole <= MOST:
            return []
        at = [MOST // 4, MOST // 2, MOST]
        few = min(16, max(whole // self.world, 1))
        more = parabola(whole, at)
        return [(w - (a == MOST), self._losses(few, a)) for a, w in zip(at, more)]

    def _step(self, rows: int, micro: int | None, whole: int, recompute: bool) -> Count:
        key = "step", rows, micro, times(whole, rows), recompute
        if key not in self._done:
            some, many, exact = self.records.between(0, rows), times(whole, rows), self.precision()
            self._done[key] = count(
                self.method, some, times=many, micro=micro, precision=exact, recompute=recompute
            )
        return self._done[key]

    def _losses(self, rows: int, whole: int) -> Count:
        key = "losses", rows, times(whole, rows)
        if key not in self._done:
            self._done[key] = count_losses(self.method, self.records.between(0, rows), times=key[2])
        return self._done[key]

    def given(self) -> float:
        """Bytes of the values of a row, all views."""
        values = (c.flat for c in self.records.columns.values())
        return sum(v.numel() * v.element_size() for v in values) / self.records.size

    def gathered(self) -> float:
        """Bytes of features that a row sends to the other processes."""
        with torch.no_grad():
            features = self.method.features(self.records)
        return sum(c.flat.numel() * 4 for c in features.columns.values()) / self.records.size


def times(whole: int, rows: int) -> int:
    return max(round(whole / rows), 1)


def line(x: float, at: tuple[int, int]) -> list[tuple[int, float]]:
    """Where a line was looked at, with the weights that give it at x."""
    low, high = at
    slope = (x - low) / (high - low)
    return [(low, 1 - slope), (high, slope)]


def parabola(x: float, at: Sequence[int]) -> list[float]:
    """The weights that give a parabola at x from its values at three points (Lagrange)."""
    a, b, c = at
    return [
        (x - b) * (x - c) / ((a - b) * (a - c)),
        (x - a) * (x - c) / ((b - a) * (b - c)),
        (x - a) * (x - b) / ((c - a) * (c - b)),
    ]
