"""What comes next: how much of a record's last event can be read off the vector of those before.

Moskvoretskii et al. 2024 (MLEM), arXiv:2401.15935, section 4: linear probes of frozen vectors
predict the next event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from amodal.core import Column, Embeddings
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needs import CHANGED_RECORDS
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.linear import linear
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded
from amodal.inference.simple_features import FieldValues
from amodal.modalities import Modality
from amodal.modalities.shared.protocols import HasNext

LEAST = 10
"""Records of each part with more than one event."""


class Prefixes(FieldValues):
    """Values without their last events, which are read when they are decoded."""

    def decoded(self, modality: Modality) -> list[np.ndarray]:
        """See `DecodedValues`."""
        assert isinstance(modality, HasNext)
        cut = [modality.before_last(value) for value in super().decoded(modality)]
        return [value for value in cut if value is not None]


@dataclass(frozen=True)
class Prefixed:
    """Records of one field, without their last events.

    Attributes:
        values: What is left of n values, each of which has two events at least.
        embedded: The vectors of that, and as labels what the last events hold.
    """

    values: Prefixes
    embedded: Embedded


def next_event(train: Embedded, test: Embedded, *, records: int = 4000, seed: int = 0) -> Result:
    """Fit a linear probe for each cell of the next event, and for the time until it.

    Rows, of each field with events: as of `linear`, with the cell as target; and the same from
    simple features of the events before, whose source is "FIELD, simple features".

    Args:
        train: Training records.
        test: Test records.
        records: Of each at most, the first ones.
        seed: See `linear`.

    Raises:
        NotApplicable: Without such a field, and for few records with more than one event.
    """
    forward = test.perturbed_forward
    assert forward is not None
    fields = [s for s in test.sources if isinstance(forward.fields[s], HasNext)]
    if not fields:
        raise NotApplicable("it needs a field of events, of which one follows another")
    rows: list[Row] = []
    for field in fields:
        parts = [without_last(part, field, records) for part in (train, test)]
        if min(len(part.values) for part in parts) < LEAST:
            raise NotApplicable(f"fewer than {LEAST} records of a part have two events")
        fit = forward.fields[field].simple_features(parts[0].values)
        first, second = (part.embedded for part in parts)
        rows += probes(first, second, field, field, seed)
        first, second = (replaced(part.embedded, field, fit(part.values)) for part in parts)
        rows += probes(first, second, field, f"{field}, simple features", seed)
    return Result("next_event", {"records": records, "seed": seed}, rows)


def probes(train: Embedded, test: Embedded, field: str, source: str, seed: int) -> list[Row]:
    """The rows of `linear` for each cell of the next event that is not the same everywhere."""
    rows: list[Row] = []
    for name in train.labels:
        try:
            made = linear(train, test, label=name, seed=seed, sources=[field]).rows
        except NotApplicable:
            continue
        rows += [{**row, "source": source, "target": name} for row in made]
    return rows


def without_last(part: Embedded, field: str, most: int) -> Prefixed:
    """The vectors of a field's values without their last events.

    Args:
        part: Records.
        field: Has events.
        most: Records at most.
    """
    forward = part.perturbed_forward
    assert forward is not None
    modality = forward.fields[field]
    assert isinstance(modality, HasNext)
    chosen, last = list[int](), list[dict[str, str | float | None]]()
    for row in part.features[field].rows.tolist():
        value = forward.dataset.value(int(forward.indices[row]), field)
        if value is None or modality.before_last(value) is None:
            continue
        if len(chosen) < most:
            chosen.append(row)
            last.append(modality.last(value))
    values = Prefixes(forward.dataset, field, forward.indices[np.asarray(chosen, np.int64)])
    if not chosen:
        return Prefixed(values, part)
    z = forward(field, cut, chosen, features=True)
    features = Embeddings({field: z[field]}, len(chosen))
    labels = {name: column_of([cells[name] for cells in last]) for name in last[0]}
    embedded = Embedded(
        [part.keys[row] for row in chosen], aligned=features, features=features, labels=labels
    )
    return Prefixed(values, embedded)


def cut(
    modality: Modality, value: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A value without its last event."""
    assert isinstance(modality, HasNext)
    before = modality.before_last(value)
    return value if before is None else before


def column_of(cells: Sequence[str | float | None]) -> np.ndarray:
    """Cells as a label: objects, or numbers with NaN."""
    if any(isinstance(cell, str) for cell in cells):
        out = np.empty(len(cells), dtype=object)
        out[:] = cells
        return out
    return np.array([np.nan if cell is None else cell for cell in cells], dtype=np.float64)


def replaced(part: Embedded, field: str, features_NF: np.ndarray) -> Embedded:
    """The records with other features of a field."""
    column = Column(torch.from_numpy(features_NF), torch.arange(len(features_NF)))
    z = Embeddings({field: column}, len(part))
    return replace(part, aligned=z, features=z)


class NextEvent(Protocol):
    """The last event, from the vector of those before it."""

    name, needs = "next_event", (CHANGED_RECORDS,)
    rank, default = 195, False
    headlines = ("accuracy", "R2")
    measure = staticmethod(next_event)


PROTOCOL = NextEvent()
