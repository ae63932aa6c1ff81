"""The cost of one optimizer step at any batch size, extrapolated from counts of small steps.

Features are computed row by row. Their cost is linear in the rows and, with micro-batches, in the
number and the size of these: two counts, or four, give it at any size. Losses compare the rows of
all processes. They are counted with all rows up to `MAX_LOSS_ROWS`, and extrapolated beyond as a
parabola, which is exact for pairwise losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch

from amodal.core import Batch
from amodal.methods.contract import Method
from amodal.nn.batch_norm import active_norms
from amodal.plan.counting import Count, count, count_losses

ROWS = (48, 96)
"""Batch sizes that are counted, to extrapolate to larger ones."""
PIECES, PIECE_ROWS = (3, 6), (8, 16)
"""Numbers and sizes of micro-batches that are counted, to extrapolate to larger ones."""
EXAMPLES = 96
"""Example records that the counts need."""
MAX_LOSS_ROWS = 80 * EXAMPLES
"""Rows up to which losses are counted."""

Terms = Sequence[tuple[float, Count]]
Precision = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Cost:
    """The cost of a step of one process, as a weighted sum of counts.

    Args:
        terms: (weight, count).
    """

    terms: Terms

    def sum(self, quantity: Callable[[Count], float]) -> float:
        """The weighted sum of a quantity of the counts."""
        return sum(weight * quantity(counted) for weight, counted in self.terms)

    @property
    def flops(self) -> float:
        return self.sum(lambda c: c.flops)

    @property
    def peak(self) -> float:
        """Peak memory in bytes, beyond weights, optimizer state and the batch."""
        # both are extrapolated separately, and the whole must not be less than a part of it
        return max(self.sum(lambda c: c.peak), self.peak_without_gradients)

    @property
    def peak_without_gradients(self) -> float:
        """The same without the gradients of the weights."""
        return self.sum(lambda c: c.peak_without_gradients)

    def seconds(self, half: float, single: float, bandwidth: float, launch: float) -> float:
        """See `Count.seconds`."""
        return self.sum(lambda c: c.seconds(half, single, bandwidth, launch))


class Steps:
    """Costs of steps of one method.

    Args:
        method: Without weights, see `amodal.plan.counting.weightless`.
        records: `EXAMPLES` example records.
        precision: Makes the context that features are computed in.
        world: Number of processes.

    Attributes:
        whole: Whether a step cannot be divided into micro-batches, as a backbone that learns reads
            statistics of the whole batch.
    """

    def __init__(self, method: Method, records: Batch, precision: Precision, world: int):
        self.method, self.records, self.precision, self.world = method, records, precision, world
        self.whole = bool(active_norms(method))
        self._steps: dict[tuple[int, int | None, int, bool], Count] = {}
        self._losses: dict[tuple[int, int], Count] = {}

    def cost(
        self,
        rows: int,
        micro_batch_size: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> Cost:
        """The cost of a step of a process with `rows` rows."""
        points: list[tuple[int, int | None, float]]  # rows, micro-batch size, weight
        micro = micro_batch_size
        if micro is None or micro >= rows:
            points = (
                [(rows, None, 1.0)]
                if rows <= ROWS[1]
                else [(r, None, w) for r, w in line(rows, ROWS)]
            )
        else:
            sizes = [(micro, 1.0)] if micro <= PIECE_ROWS[1] else line(micro, PIECE_ROWS)
            few = rows <= PIECES[1] * micro
            pieces = [(rows / micro, 1.0)] if few else line(rows / micro, PIECES)
            points = [(round(n * m), m, a * b) for n, a in pieces for m, b in sizes]
        total = rows * self.world
        terms = [
            (weight, self._step(r, m, compared_rows(total), gradient_checkpointing))
            for r, m, weight in points
        ]
        return Cost([*terms, *self._extrapolated_losses(total)])

    def losses(self, rows: int) -> Cost:
        """The cost of the losses alone, with `rows` rows on each process."""
        total = rows * self.world
        counted = self._loss(min(rows, 16), min(total, MAX_LOSS_ROWS))
        return Cost([(1.0, counted), *self._extrapolated_losses(total)])

    def _extrapolated_losses(self, total: int) -> Terms:
        """The additional cost of losses of `total` rows over those of `MAX_LOSS_ROWS`."""
        if total <= MAX_LOSS_ROWS:
            return []
        points = [MAX_LOSS_ROWS // 4, MAX_LOSS_ROWS // 2, MAX_LOSS_ROWS]
        rows = min(16, max(total // self.world, 1))
        return [
            (weight - (point == MAX_LOSS_ROWS), self._loss(rows, point))
            for point, weight in zip(points, parabola(total, points))
        ]

    def _step(
        self, rows: int, micro: int | None, total: int, gradient_checkpointing: bool
    ) -> Count:
        key = rows, micro, copies(total, rows), gradient_checkpointing
        if key not in self._steps:
            self._steps[key] = count(
                self.method,
                self.records.between(0, rows),
                times=copies(total, rows),
                micro_batch_size=micro,
                precision=self.precision(),
                gradient_checkpointing=gradient_checkpointing,
            )
        return self._steps[key]

    def _loss(self, rows: int, total: int) -> Count:
        key = rows, copies(total, rows)
        if key not in self._losses:
            self._losses[key] = count_losses(
                self.method, self.records.between(0, rows), times=key[1]
            )
        return self._losses[key]

    @cached_property
    def record_bytes(self) -> float:
        """Bytes of the values of a row, all views."""
        values = (c.flat for c in self.records.columns.values())
        return sum(v.numel() * v.element_size() for v in values) / self.records.size

    @cached_property
    def feature_bytes(self) -> float:
        """Bytes of the features that a row sends to the other processes."""
        with torch.no_grad():
            features = self.method.features(self.records)
        return sum(c.flat.numel() * 4 for c in features.columns.values()) / self.records.size


def compared_rows(total: int) -> int:
    """About `total` rows, which losses compare in every count.

    A multiple of the rows of each of them: the counts have large weights of both signs, so that a
    difference of a hundredth in what losses cost would become seconds, or less than none.
    """
    if total <= EXAMPLES:
        return total
    return min(max(round(total / EXAMPLES), 1) * EXAMPLES, MAX_LOSS_ROWS)


def copies(total: int, rows: int) -> int:
    """How often `rows` rows make about `total` rows."""
    return max(round(total / rows), 1)


def line(x: float, points: tuple[int, int]) -> list[tuple[int, float]]:
    """Two points with the weights of their values that give a line at x."""
    low, high = points
    slope = (x - low) / (high - low)
    return [(low, 1 - slope), (high, slope)]


def parabola(x: float, points: Sequence[int]) -> list[float]:
    """The weights of the values at three points that give a parabola at x (Lagrange)."""
    a, b, c = points
    return [
        (x - b) * (x - c) / ((a - b) * (a - c)),
        (x - a) * (x - c) / ((b - a) * (b - c)),
        (x - a) * (x - b) / ((c - a) * (c - b)),
    ]
