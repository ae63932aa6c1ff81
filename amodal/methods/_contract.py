"""What a method is. One test holds every method to this (tests/methods/test_contract.py)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from amodal.core import Batch, Embeddings
from amodal.nn.encoder import Encoder

Features = Embeddings
"""Named columns, one entry a row: everything that carries a gradient from the encoder to the losses."""


@dataclass(frozen=True)
class Clock:
    """step: optimizer steps done, 1, 2, …; steps: how many there will be."""

    step: int
    steps: int

    @property
    def progress(self) -> float:
        return min(self.step / max(self.steps, 1), 1.0)


class Method(nn.Module):
    """encoder: what survives training. views: how each value is augmented: one view keeps the field's name as its source, n
    views make the sources `field:1` … `field:n`.

    `features` may not couple rows, and may not depend on anything random but the rows' seeds; `losses` may couple rows. The
    loop can therefore compute features piece by piece and rank by rank, and losses once over the whole batch, and the update is
    that of one big batch. So whatever looks at batch statistics (BatchNorm in a projector, centring) belongs in `losses`.
    """

    encoder: Encoder
    views: tuple[str, ...] = ("plain",)
    least_rows: int = 1
    """Rows that a batch needs for there to be anything to learn."""

    def features(self, batch: Batch) -> Features:
        raise NotImplementedError

    def losses(self, features: Features) -> dict[str, Tensor]:
        """Named scalars; the loop minimises their sum. A term without a row to compare is zero, and still part of the graph."""
        raise NotImplementedError

    def tick(self, clock: Clock) -> None:
        """After each optimizer step and nowhere else: moving averages, centres, schedules."""
