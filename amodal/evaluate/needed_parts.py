"""The embedded parts of an evaluation: the records that some protocol reads, each of them once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from amodal.evaluate.context import EmbeddedParts, Pair
from amodal.evaluate.needed_records import Mask, PartRecords
from amodal.inference.embed import Embedded, embed_records
from amodal.inference.forward_passes import AnyEncoder, Device
from amodal.progress import Bar

Parts = tuple[PartRecords, PartRecords]
Choice = Callable[[Parts], tuple[Mask, Mask]]
"""Training and test records -> which of them are read."""


class NeededParts(EmbeddedParts):
    """Embedded training and test records of one encoder.

    Args:
        encoder: What embeds.
        records: The training and the test records.
        needed: Which of them some protocol reads.
        title: Of the bar.
        progress: Show a bar.
        batch: Records embedded at once.
        device: Where the encoder is.

    Attributes:
        records: The training and the test records. Values that turned out to be unreadable do not
            count once they are embedded.
        masks: (N,) and (M,) bool, which of them have vectors; None before they are embedded.
    """

    def __init__(
        self,
        encoder: AnyEncoder,
        records: Parts,
        needed: Choice,
        *,
        title: str = "embed",
        progress: bool = False,
        batch: int = 256,
        device: Device | None = None,
    ):
        super().__init__(self._embed)
        self.encoder, self.records, self.needed = encoder, records, needed
        self.title, self.progress, self.batch, self.device = title, progress, batch, device
        self.masks: tuple[Mask, Mask] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many records of each part have been embedded."""
        masks = self.masks or ()
        return {part: int(mask.sum()) for part, mask in zip(("train", "test"), masks)}

    def only(self, needed: Choice) -> EmbeddedParts:
        """The parts as a protocol sees them.

        Args:
            needed: Which records it reads; others have no vectors for it.
        """
        return seen_by(needed, self, self)

    def _embed(self) -> Pair:
        masks = one_at_least(self.needed(self.records))
        with Bar(self.title, int(sum(m.sum() for m in masks)), shown=self.progress) as bar:
            train = self._part(0, masks[0], bar)
            # where a drawn value cannot be read, another is drawn, as if it were missing
            while train.bad:
                self.records = (self.records[0].without(train.bad), self.records[1])
                now = one_at_least(self.needed(self.records))
                if not (now[0] & ~masks[0]).any():
                    break
                masks = now
                train = self._part(0, masks[0], bar)
            test = self._part(1, masks[1], bar)
        self.records = (self.records[0], self.records[1].without(test.bad))
        self.masks = masks
        parts = zip((train, test), self.records)
        train, test = (replace(e, population=part.population()) for e, part in parts)
        return train, test

    def _part(self, number: int, mask: Mask, bar: Bar) -> Embedded:
        part = self.records[number]
        return embed_records(
            self.encoder,
            part.dataset,
            part.rows,
            batch=self.batch,
            device=self.device,
            progress=lambda by: bar.step("records", by=by),
            only=mask,
        )


class ComparedParts(EmbeddedParts):
    """Other features of the records and rows of a model's embedded parts.

    Args:
        make: Makes them.
        embedded: The model's parts.
        needed: Which of the records protocols read on these features; None for all.
    """

    def __init__(
        self, make: Callable[[], Pair], embedded: EmbeddedParts, needed: Choice | None = None
    ):
        super().__init__(make)
        self.embedded, self.needed = embedded, needed

    def masks(self) -> tuple[Mask, Mask]:
        """(N,) and (M,) bool, which training and which test records are read."""
        pair = self.embedded.pair  # it settles `records`
        if self.needed is None or not isinstance(self.embedded, NeededParts):
            train, test = (np.ones(len(part), dtype=bool) for part in pair)
            return train, test
        return self.needed(self.embedded.records)

    def only(self, needed: Choice) -> EmbeddedParts:
        """The parts as a protocol sees them, see `NeededParts.only`."""
        return seen_by(needed, self, self.embedded)


def seen_by(needed: Choice, parts: EmbeddedParts, embedded: EmbeddedParts) -> EmbeddedParts:
    """Parts without the vectors of records that a protocol does not read.

    Args:
        needed: Which records it reads.
        parts: The parts.
        embedded: Those of the model, which say what can be read.
    """

    def make() -> Pair:
        pair = parts.pair  # it settles `records`
        if not isinstance(embedded, NeededParts):
            return pair
        train, test = (part.only(mask) for part, mask in zip(pair, needed(embedded.records)))
        return train, test

    return EmbeddedParts(make)


def one_at_least(masks: tuple[Mask, Mask]) -> tuple[Mask, Mask]:
    """The same choice, or the first record where none is chosen: something has to show which
    vectors an encoder makes."""
    train, test = (mask if mask.any() else np.arange(len(mask)) == 0 for mask in masks)
    return train, test
