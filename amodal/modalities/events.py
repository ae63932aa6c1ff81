"""Time-stamped events of one record: purchases, treatments of a patient, notes of a tune.

Raw: a list of objects, each with its time, `[{"time": 0.5, "item": "tea", "price": 2.5}, ...]`, or
the same as columns of one length, `{"time": [0.5, ...], "item": ["tea", ...], "price": [2.5,
...]}`. In a table that is JSON in JSONL, list<struct> or struct<list> in Parquet. Times are numbers
in any unit or dates (then seconds); they need be neither regular nor in order. Fields are numbers
or categories, and any cell but the time may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.errors import nearest
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import event_records as _records
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared import simple as _simple
from amodal.modalities.shared.base import (
    Attribute,
    BadValue,
    Modality,
    Raw,
    Schema,
    at_most,
    build,
    check_view,
    decodable,
    first_names,
    format_range,
    from_json,
    listed,
    read_each,
    shortened,
)
from amodal.modalities.shared.cells import moments, tidy
from amodal.modalities.shared.requests import cells_of
from amodal.modalities.shared.tokenizers.events import EventsGraph, EventsTokenizer
from amodal.modalities.table import Table

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

CROPS = {"weak": (0.8, 1.0), "strong": (0.5, 1.0), "local": (0.2, 0.6)}  # share of the events
DROP_RATE = {"weak": 0.05, "strong": 0.2, "local": 0.0}  # events left out, one by one
SWAP_RATE = {
    "weak": 0.0,
    "strong": 0.2,
    "local": 0.0,
}  # events whose fields change places with those one or two later
NOISE = {"weak": 0.02, "strong": 0.1, "local": 0.0}  # of numbers in deviations, of gaps as a share
GAP = "time since the last event"


@dataclass(frozen=True)
class Events(Modality):
    """Events of a record. A value is (n, 1 + C) float32, in order of time; one token an event.

    A row is the time since the first event, then the number or the code of each field, NaN where
    it is missing.

    Attributes:
        columns: the fields, in order, without the time.
        categories: field -> values of a categorical one; all others are numeric.
        time: the field of times; "" for events one step apart.
        step: the typical gap, in the unit of the data.
        log: gaps are log(1 + gap / step), for times that differ by orders of magnitude, else
            gap / step.
        max_events: of longer records the last ones are read.
        mean, std: of each field and, last, of the gaps, measured by `infer`.
    """

    columns: tuple[str, ...] = ("value",)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    time: str = "time"
    step: float = 1.0
    log: bool = True
    max_events: int = 256
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    simple_name: ClassVar[str] = "counts of events"
    suffixes: ClassVar[frozenset[str]] = frozenset({".events"})
    magic: ClassVar[tuple[bytes, ...]] = (b"[{",)
    placeholder: ClassVar[str] = '[{"time": number, …}, …]'
    uploads: ClassVar[bool] = False
    is_sequence: ClassVar[bool] = True
    has_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len({*self.columns, self.time, GAP}) < len(self.columns) + 2:
            raise AmodalError(
                f"events.columns must be different names, without the time {self.time!r}, got "
                f"{list(self.columns)}"
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, len(self.columns) + 1):
                raise AmodalError(
                    f"events.{name} has {len(getattr(self, name))} numbers for "
                    f"{len(self.columns)} fields and the gaps"
                )
        if self.max_events < 1 or not self.step > 0:
            raise AmodalError(
                f"events need max_events of at least 1 and a step above 0, got {self.max_events} "
                f"and {self.step}"
            )
        at_most("events", {"max_events": (self.max_events, 2**24)})
        self.cells()  # categories of fields that there are

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides: Any) -> Events:
        """See `Modality.infer`.

        time: the first field with a name of times, or with dates. categories, mean and std: as for
        a table. step: the median gap. max_events: a quarter more than the longest sample has, at
        most 1,024.
        """
        records = read_each(samples, _records.read)
        names = dict.fromkeys(name for record in records for name in record)
        time = overrides.get("time", _records.find_time_field(records, names))
        columns = tuple(
            overrides.get(
                "columns", [n for n in names if n != time and not _records.is_nested(records, n)]
            )
        )
        longest = max(len(next(iter(record.values()))) for record in records)
        measured = {
            "time": time,
            "columns": columns,
            "max_events": min(1024, max(8, longest * 5 // 4)),
        }
        if columns:
            table = Table.infer(_records.sample_events(records, columns), columns=columns)
            measured["categories"] = table.categories
        events = build(cls, measured | overrides)
        values = decodable(events, samples)
        if "step" not in overrides:
            gaps = np.concatenate([np.diff(v[:, 0]) for v in values])
            events = replace(
                events, step=tidy(float(np.median(gaps[gaps > 0]))) if (gaps > 0).any() else 1.0
            )
        mean, std = moments(np.concatenate([events.rows(v) for v in values]))
        numeric = events.cells().numeric()
        mean, std = (
            tuple(m if n else d for m, n in zip(ms, numeric)) for ms, d in ((mean, 0.0), (std, 1.0))
        )
        return replace(events, mean=events.mean or mean, std=events.std or std)

    def cells(self) -> Table:
        """An event as the row of a table, its gap in the last column; all cells in one token."""
        columns = (*self.columns, GAP)
        return Table(columns, self.categories, self.mean, self.std, patch=len(columns))

    def decode(self, raw: Raw) -> np.ndarray:
        """(n, 1 + C) float32 from a list of objects, or an object of lists.

        Also as JSON or lines of JSON (Path, bytes). Fields outside the schema are ignored, absent
        ones are missing.
        """
        record = _records.read(raw)
        length = len(next(iter(record.values())))
        if self.columns and not any(c in record for c in self.columns):
            close = next((near[0] for name in record if (near := nearest(name, self.columns))), "")
            hint = f"; did you mean {close}?" if close else ""
            raise BadValue(
                f"none of the fields {listed(self.columns)}; it has {listed(record)}{hint}"
            )
        times = self._times(record) if self.time else np.arange(length, dtype=np.float64)
        order = np.argsort(times, kind="stable")[-self.max_events :]
        value = np.full((len(order), 1 + len(self.columns)), np.nan, dtype=np.float32)
        # in float64: seconds since 1970 have more digits than float32
        value[:, 0] = times[order] - times[order[0]]
        for i, name in enumerate(self.columns, 1):
            if name in record:
                cells = record[name]
                codes = self.categories.get(name)
                value[:, i] = (
                    _records.numbers_of(cells, name)
                    if codes is None
                    else _records.codes_of(cells, codes)
                )[order]
        if self.columns and np.isnan(value[:, 1:]).all():
            raise BadValue("every cell is missing")
        return value

    def _times(self, record: Mapping[str, list[Any]]) -> np.ndarray:
        if self.time not in record:
            raise BadValue(f"no time {self.time!r}; it has {listed(record)}")
        times = _records.numbers_of(record[self.time], self.time)
        if np.isnan(times).any():
            raise BadValue(f"event {int(np.isnan(times).argmax())} has no {self.time}")
        return times

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """See `Modality.augment`.

        local: 20-60 % of the events, contiguous, unchanged (CoLES: Babaev et al., 2022). weak:
        80-100 %, one in twenty dropped, numbers and gaps changed by about 2 %. strong: 50-100 %,
        one in five dropped, one in five swapped with a neighbour, one cell in ten missing, numbers
        and gaps changed by about 10 %.
        """
        check_view(view)
        if view == "plain":
            return value
        out = value[_ragged.random_crop(len(value), *CROPS[view], rng, least=2)]
        if view != "local":
            keep = rng.random(len(out)) >= DROP_RATE[view]
            out = out[keep] if keep.any() else out
            # only the cells change places; the times stay in order
            order_key = np.arange(len(out)) + np.where(
                rng.random(len(out)) < SWAP_RATE[view], 3 * rng.random(len(out)), 0
            )
            gaps = np.diff(out[:, 0], prepend=out[:1, 0])
            times = (gaps * np.exp(NOISE[view] * rng.standard_normal(len(out)))).cumsum()
            cells = self._noisy(out[np.argsort(order_key, kind="stable"), 1:], NOISE[view], rng)
            if view == "strong":
                cells = np.where(rng.random(cells.shape) < 0.1, np.nan, cells)
            out = np.concatenate([times[:, None], cells], 1)
        return np.concatenate([out[:, :1] - out[0, 0], out[:, 1:]], 1).astype(np.float32)

    def _noisy(self, cells: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
        scale = np.array(self.cells().scale()[1])[:-1] * np.array(self.cells().numeric())[:-1]
        noisy: np.ndarray = cells + share * scale * rng.standard_normal(cells.shape)
        return noisy

    def collate(self, values: Sequence[np.ndarray]) -> Ragged:
        """flat (sum of events, 1 + C) float32."""
        return _ragged.pack(values, np.zeros((0, 1 + len(self.columns)), dtype=np.float32))

    def gaps(self, events: Ragged) -> Tensor:
        """(T,) time since the event before, scaled by `log` and `step`; 0 for a record's first."""
        time = events.flat[:, 0]
        gap = torch.diff(time, prepend=time[:1]).clamp(min=0) / self.step
        # an empty record starts where the next one does, or at the end
        first = events.starts()[events.lengths > 0]
        gap = gap.index_fill(0, first, 0.0)
        return gap.log1p() if self.log else gap

    def rows(self, value: np.ndarray) -> np.ndarray:
        """(n, C + 1): the fields of each event, then its gap."""
        gap = self.gaps(self.collate([value])).numpy()
        return np.concatenate([value[:, 1:], gap[:, None]], 1)

    def table(self, events: Ragged) -> Tensor:
        """(T, C + 1): the rows of `cells`."""
        return torch.cat([events.flat[:, 1:], self.gaps(events).unsqueeze(1)], 1)

    def tokenizer(self, width: int) -> EventsTokenizer:
        return EventsTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> EventsGraph:
        return EventsGraph(cast(EventsTokenizer, tokenizer))

    def targets(self, events: Ragged) -> Tensor:
        """(T, 2 C + 2): every field of the event, and its gap; see `Table.targets`."""
        return self.cells().targets(self.table(events))

    def predictor(self, width: int) -> nn.Linear:
        """A number for each field and the gap, then the logits of each categorical field."""
        return self.cells().predictor(width)

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) mean loss over the fields that an event has.

        Squared error of numbers and of the gap in deviations, cross-entropy of codes.
        """
        return self.cells().token_loss(prediction, target)

    def show(self, value: np.ndarray) -> np.ndarray:
        """A line for each field over time: numbers by height, categories by colour."""
        return _draw.event_plot(
            value[:, 0],
            {c: value[:, i] for i, c in enumerate(self.columns, 1)},
            set(self.categories),
        )

    def describe(self, value: np.ndarray) -> str:
        """Number of events, time span, and the fields of the last."""
        row = np.append(value[-1, 1:], np.float32(np.nan))
        last = ", ".join(f"{c}={v}" for c, v in self.cells().cells(row).items())
        count = f"{len(value)} event{'s' * (len(value) > 1)}"
        span = f" over {value[-1, 0]:.3g}" if self.time and len(value) > 1 else ""
        return shortened(f"{count}{span}" + (f", last {last}" if last else ""))

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        return f"{format_range((len(v) for v in values), 'events')} of {first_names(self.columns)}"

    def attributes(self) -> dict[str, Attribute]:
        return {
            "events": Attribute("number", lambda value: float(len(value))),
            "span": Attribute("number", lambda value: float(value[-1, 0])),
        }

    def before_last(self, value: np.ndarray) -> np.ndarray | None:
        return value[:-1] if len(value) > 1 else None

    def last(self, value: np.ndarray) -> dict[str, str | float | None]:
        return _records.cells_of_row(self.rows(value)[-1], (*self.columns, GAP), self.categories)

    def queries(self, value: Any) -> list[Raw]:
        """One record is a list of objects, or an object of lists."""
        value = from_json(value)
        if not isinstance(value, (list, tuple)):
            return [value]
        files = all(isinstance(v, (str, bytes, Path)) for v in value)
        return list(value) if files or all(map(_is_record, value)) else [cast(Raw, value)]

    def simple_groups(self, raws: Sequence[Raw]) -> list[_simple.Array]:
        """Counts, span, gaps, and what the fields hold; see `simple.events`."""
        sizes = self.cells().num_codes()[: len(self.columns)]
        values = self.decode_all(raws)
        times = [value[:, 0].astype(np.float64) / self.step for value in values]
        return _simple.events(times, [value[:, 1:] for value in values], sizes)

    def json_schema(self, limits: Limits) -> Schema:
        rows = {"type": "array", "items": {"type": "object"}, "minItems": 1}
        return {"anyOf": [rows, {"type": "object", "minProperties": 1}]}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        return cells_of(raw, limits)

    def deviation(self, value: np.ndarray) -> np.ndarray:
        cells = self.cells()  # its last column is the gap
        return np.append(0.0, (np.array(cells.scale()[1]) * np.array(cells.numeric()))[:-1])

    def exchanged(self, value: np.ndarray, other: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """See `Corruptible.exchanged`. An event keeps its time."""
        out = super().exchanged(value, other, hit)
        if out is not value:
            out[:, 0] = value[:, 0]
        return out

    def dropped(self, value: np.ndarray, hit: np.ndarray) -> np.ndarray:
        out = value[~hit]
        return np.concatenate([out[:, :1] - out[:1, :1], out[:, 1:]], 1)


def _is_record(value: Any) -> bool:
    columns = isinstance(value, dict) and any(isinstance(cells, list) for cells in value.values())
    return isinstance(value, list) or columns
