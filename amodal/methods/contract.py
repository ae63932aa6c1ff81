"""What a method is. One test holds every method to this (tests/methods/test_contract.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Answers
from amodal.nn.scale import Scale

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
    """`features` may not couple rows, and may not depend on anything random but the rows' seeds; `losses` may couple rows. The
    loop can therefore compute features piece by piece and rank by rank, and losses once over the whole batch, and the update is
    that of one big batch. So whatever looks at batch statistics (BatchNorm in a projector, centring) belongs in `losses`.
    """

    encoder: Encoder
    """What survives training."""
    views: tuple[str, ...] | Mapping[str, tuple[str, ...]] = ("plain",)
    """How each value is augmented, the same for all fields or field by field (a field that is not named is plain): one view
    keeps the field's name as its source, n views make the sources `field:1` … `field:n`."""
    least_rows: int = 1
    """Rows that a batch needs for there to be anything to learn."""
    labels: tuple[str, ...] = ()
    """The labels that batches must bring along, for methods that learn from some."""
    stages: tuple[float, ...] = (1.0,)
    """Where stages end, as shares of the steps. Each has a warm-up and a decay of its own and a fresh optimizer."""
    rates: Mapping[str, float] = {}
    """How many times the learning rate parameters learn at whose names begin so; the first that fits counts, others learn at it."""
    survey_first: bool = False
    """Whether `survey` is called for stage 0 too."""

    def features(self, batch: Batch) -> Features:
        raise NotImplementedError

    def losses(self, features: Features) -> dict[str, Tensor]:
        """Named scalars; the loop minimises their sum. A term without a row to compare is zero, and still part of the graph."""
        raise NotImplementedError

    def tick(self, clock: Clock) -> None:
        """After each optimizer step and nowhere else: moving averages, centres, schedules."""

    def begin(self, stage: int) -> None:
        """At the start, when stage 1, 2, … begins, and after a resume: what learns and what is frozen. Changes no parameter and no
        buffer, so that a resumed run finds them as they were."""

    def study(self, records: Iterable[Batch]) -> None:
        """Once, before the first step of a run (not after a resume): all records to train on, in order and as they are. May fill
        buffers, the same on every process: what is to be known about the data beforehand, and never about other records."""

    def survey(self, stage: int, see: Callable[[], Embeddings]) -> Tensor | None:
        """Once, when stage 1, 2, … begins, before `begin`. see: computes the encoder's features of all records to train on and, as
        `label/NAME`, the labels that it learns from, on the CPU. May fill buffers and copy weights; what the first process makes of
        it holds for all, and an average of the encoder's weights begins again. Returns a group for each record (n,) int64, of which
        later batches hold one only (-1: none of this record), or None for batches of all."""

    def pair_logits(self) -> Scale | None:
        """The learned scale of the cosines of `encoder(batch)` whose InfoNCE between senses it learns by, or with a bias whose sigmoid
        loss; None for any other loss. For those who score pairs by the method's own loss (`amodal.curate.jest`)."""

    def answers(self) -> Answers | None:
        """The head that tells labels from the features of the encoder, which is then kept beside it (`amodal predict`); None without."""

    def outputs(self, batch: Batch) -> Column:
        """(N, …) what it tells of each row that it can tell of, target after target: logits of classes, amounts in deviations, log hazards.
        A method that has it, because more than a head on the encoder's features tells its labels, is kept whole (`amodal predict`)."""
        raise NotImplementedError

    def generate(self, batch: Batch, *, beams: int) -> tuple[Column, Tensor, Tensor]:
        """Of the rows that ask: (N, beams) int64, best first, the numbers of records to train on, in their order, that it names, -1 where
        there are no more; (N, beams) their log probabilities; and (most, levels) the tokens of every record's name, -1 behind its end. A
        method that has it is kept whole, with the keys of those records (`amodal search --generate`); `asks` is the field that it reads."""
        raise NotImplementedError

    combine: Callable[[dict[str, Tensor]], Tensor] | None = None
    """Gradient surgery: of each loss term its gradient over all that learns, one vector (P,), to the vector to step along. None is
    their sum, at the cost of one backward pass instead of one a term."""
