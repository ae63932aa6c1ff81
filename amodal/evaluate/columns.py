"""What a report measures side by side: the trained encoder, and what it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from amodal.evaluate.context import Context
from amodal.evaluate.frozen import FrozenParts, pretrained_fields
from amodal.evaluate.joined import JoinedParts
from amodal.evaluate.needed_parts import ComparedParts, NeededParts, Parts
from amodal.evaluate.needed_records import Mask
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.yardsticks import SimpleParts
from amodal.inference.forward_passes import AnyEncoder, Device

ProtocolRun = tuple[Protocol, Context]
"""A protocol, and what it is run on, without embedded records."""


@dataclass(frozen=True)
class Columns:
    """Embedded parts by column, each made once and when first needed.

    Args:
        trained: Of the encoder that is evaluated.
        untrained: Of the one before training.
        simple: Simple features.
        frozen: Features of pretrained models.
        joined: The vectors of the encoder, and simple features beside them.
    """

    trained: NeededParts
    untrained: NeededParts | None = None
    simple: SimpleParts | None = None
    frozen: FrozenParts | None = None
    joined: JoinedParts | None = None

    @property
    def names(self) -> list[str]:
        """Those that are measured, as in a `Report`."""
        untrained = [] if self.untrained is None else ["untrained"]
        return ["trained", *untrained, *(name for name, _ in self.beside())]

    def beside(self) -> Iterator[tuple[str, ComparedParts]]:
        """Those that only protocols with `yardstick` are measured on."""
        if self.simple is not None:
            yield "simple", self.simple
        if self.frozen is not None:
            yield "frozen", self.frozen
        if self.joined is not None:
            yield "joined", self.joined


def columns_of(
    encoder: AnyEncoder,
    runs: Sequence[ProtocolRun],
    records: Parts,
    *,
    baseline: AnyEncoder | None = None,
    simple: bool = True,
    seed: int = 0,
    batch: int = 256,
    device: Device | None = None,
    progress: bool = False,
) -> Columns:
    """Make the columns of a report. Nothing is embedded yet.

    Args:
        encoder: What is evaluated.
        runs: The protocols. They say which records they read.
        records: Training and test records.
        baseline: The encoder before training, if it is measured.
        simple: Whether simple features are measured.
        seed: Of the choice of training records.
        batch: Records embedded at once.
        device: Where the encoders are.
        progress: Show bars.
    """
    embedded = partial(
        NeededParts,
        records=records,
        needed=partial(read_by_any, runs),
        progress=progress,
        batch=batch,
        device=device,
    )
    trained = embedded(encoder)
    compared = [(one, run) for one, run in runs if one.yardstick]
    dataset, rows = records[0].dataset, (records[0].rows, records[1].rows)

    def simple_parts() -> SimpleParts:
        return SimpleParts(
            encoder.fields,
            dataset,
            rows,
            trained,
            needed=partial(read_by_any, compared),
            pairs=_compare_fields(compared),
            seed=seed,
            progress=progress,
        )

    def frozen_parts() -> FrozenParts | None:
        model = runs[0][1].model if runs else None
        holder, fields = pretrained_fields(model or encoder, encoder, baseline)
        # one field with a pretrained model is compared with no other
        few = [run for run in compared if len(fields) > 1 or not run[0].compares_fields]
        if not fields or not few:
            return None
        return FrozenParts(
            holder,
            fields,
            dataset,
            rows,
            trained,
            needed=partial(read_by_any, few),
            pairs=_compare_fields(few),
            seed=seed,
            batch=batch,
            device=device,
            progress=progress,
        )

    beside = simple_parts() if simple and compared else None
    return Columns(
        trained,
        None if baseline is None else embedded(baseline, title="embed, untrained"),
        beside,
        frozen_parts(),
        None if beside is None else JoinedParts(trained, beside),
    )


def read_by_any(runs: Sequence[ProtocolRun], parts: Parts) -> tuple[Mask, Mask]:
    """The training and the test records that any of some protocols reads."""
    masks = [one.needed_records(parts, context) for one, context in runs]
    train, test = (np.any([pair[part] for pair in masks], 0) for part in (0, 1))
    return train, test


def _compare_fields(runs: Sequence[ProtocolRun]) -> bool:
    return any(one.compares_fields and one.may_apply(run) for one, run in runs)
