"""Time-stamped events of one record: what a customer bought, what a patient was given, the notes of
a tune.

Raw: a list of objects, each with its time, `[{"time": 0.5, "item": "tea", "price": 2.5}, ...]`, or
the same as columns of one length, `{"time": [0.5, ...], "item": ["tea", ...], "price": [2.5,
...]}`; in a table that is JSON in JSONL, list<struct> or struct<list> in Parquet. Times are numbers
in any unit or dates (then seconds); they need be neither regular nor in order. Fields are numbers
or categories, and any cell but the time may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged, Tokens
from amodal.errors import nearest
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import event_records as _records
from amodal.modalities.shared import ragged as _ragged
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
    first_of,
    from_json,
    listed,
    shortened,
    spanned,
)
from amodal.modalities.shared.cells import moments, tidy
from amodal.modalities.shared.requests import cells_of
from amodal.modalities.table import Table, TableGraph, TableTokenizer

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

CROPS = {"weak": (0.8, 1.0), "strong": (0.5, 1.0), "local": (0.2, 0.6)}  # share of the events
DROPPED = {"weak": 0.05, "strong": 0.2, "local": 0.0}  # events left out, one by one
MOVED = {
    "weak": 0.0,
    "strong": 0.2,
    "local": 0.0,
}  # events whose fields change places with those one or two later
NOISE = {"weak": 0.02, "strong": 0.1, "local": 0.0}  # of numbers in deviations, of gaps as a share
GAP = "time since the last event"


@dataclass(frozen=True)
class Events(Modality):
    """A value is (n, 1 + C) float32, events in order of time: the time since the first event, then
    the number or the code of the category of each field, NaN where it is missing. One token for
    each event.

    columns: the fields, in order, without the time; categories: field -> the values of a
    categorical one, all others are numeric; time: the field that says when, "" if nothing does:
    then events are one step apart; step: the usual time between two events, in the unit of the
    data; log: see gaps as log(1 + gap / step), for times that differ by orders of magnitude, else
    as gap / step; max_events: of longer records the last so many are read; mean, std: of each field
    and, last, of the gaps, measured by `infer`.
    """

    columns: tuple[str, ...] = ("value",)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    time: str = "time"
    step: float = 1.0
    log: bool = True
    max_events: int = 256
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    suffixes: ClassVar[frozenset[str]] = frozenset({".events"})
    magic: ClassVar[tuple[bytes, ...]] = (b"[{",)
    placeholder: ClassVar[str] = '[{"time": number, …}, …]'
    uploads: ClassVar[bool] = False
    is_sequence: ClassVar[bool] = True
    has_time: ClassVar[bool] = True

    def __post_init__(self):
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
    def infer(cls, samples: Sequence[Raw], **overrides) -> Events:
        """time: the first field that is called like one, or that holds dates; categories, mean and
        std as for a table; step: the median gap; room for a quarter more events than the longest
        sample has, up to 1,024."""
        records, first = [], None
        for raw in samples:
            try:
                records.append(_records.read(raw))
            except BadValue as error:
                first = first or error
        if not records:
            raise first or BadValue("no samples to look at")
        names = dict.fromkeys(name for record in records for name in record)
        time = overrides.get("time", _records.clock_of(records, names))
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
            table = Table.infer(_records.some_events(records, columns), columns=columns)
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
        """An event as the row of a table, its gap in the last column; all of a row in one token."""
        columns = (*self.columns, GAP)
        return Table(columns, self.categories, self.mean, self.std, patch=len(columns))

    def decode(self, raw: Raw) -> np.ndarray:
        """(n, 1 + C) float32 from a list of objects, or an object of lists; also as JSON or lines
        of JSON (Path, bytes). Fields that the schema does not have are passed over, absent ones are
        missing."""
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

    def _times(self, record: Mapping[str, list]) -> np.ndarray:
        if self.time not in record:
            raise BadValue(f"no time {self.time!r}; it has {listed(record)}")
        times = _records.numbers_of(record[self.time], self.time)
        if np.isnan(times).any():
            raise BadValue(f"event {int(np.isnan(times).argmax())} has no {self.time}")
        return times

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """local: 20-60 % of the events, one after another, as they are (CoLES: Babaev et al.,
        2022); weak: 80-100 %, of which one in twenty is left out, numbers and gaps changed by about
        2 %; strong: 50-100 %, one in five left out, one in five changes places with a neighbour,
        one cell in ten missing, numbers and gaps changed by about 10 %."""
        check_view(view)
        if view == "plain":
            return value
        out = value[_ragged.crop(len(value), *CROPS[view], rng, least=2)]
        if view != "local":
            kept = rng.random(len(out)) >= DROPPED[view]
            out = out[kept] if kept.any() else out
            late = np.arange(len(out)) + np.where(
                rng.random(len(out)) < MOVED[view], 3 * rng.random(len(out)), 0
            )
            gaps = np.diff(out[:, 0], prepend=out[:1, 0])
            times = (gaps * np.exp(NOISE[view] * rng.standard_normal(len(out)))).cumsum()
            cells = self._noisy(out[np.argsort(late, kind="stable"), 1:], NOISE[view], rng)
            if view == "strong":
                cells = np.where(rng.random(cells.shape) < 0.1, np.nan, cells)
            out = np.concatenate([times[:, None], cells], 1)
        return np.concatenate([out[:, :1] - out[0, 0], out[:, 1:]], 1).astype(np.float32)

    def _noisy(self, cells: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
        scale = np.array(self.cells().scale()[1])[:-1] * np.array(self.cells().numeric())[:-1]
        return cells + share * scale * rng.standard_normal(cells.shape)

    def collate(self, values: Sequence[np.ndarray]) -> Ragged:
        """flat (sum of events, 1 + C) float32."""
        return _ragged.ragged(values, np.zeros((0, 1 + len(self.columns)), dtype=np.float32))

    def gaps(self, events: Ragged) -> Tensor:
        """(T,) how long after the event before it each came, as `log` and `step` say; 0 for the
        first of a record."""
        time = events.flat[:, 0]
        gap = torch.diff(time, prepend=time[:1]).clamp(min=0) / self.step
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
        return EventsGraph(tokenizer)

    def targets(self, events: Ragged) -> Tensor:
        """(T, 2 C + 2): see `Table.targets`: every field of the event, and its gap."""
        return self.cells().targets(self.table(events))

    def predictor(self, width: int) -> nn.Linear:
        """A number for each field and the gap, then the logits of each categorical field's codes."""
        return self.cells().predictor(width)

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) squared error of numbers and of the gap in deviations, cross-entropy of codes; the
        mean of them over the fields that an event has."""
        return self.cells().token_loss(prediction, target)

    def show(self, value: np.ndarray) -> np.ndarray:
        """A line for each field over time: numbers by height, categories by colour."""
        return _draw.marks(
            value[:, 0],
            {c: value[:, i] for i, c in enumerate(self.columns, 1)},
            set(self.categories),
        )

    def describe(self, value: np.ndarray) -> str:
        """How many, over which time, and the fields of the last."""
        row = np.append(value[-1, 1:], np.float32(np.nan))
        last = ", ".join(f"{c}={v}" for c, v in self.cells().cells(row).items())
        count = f"{len(value)} event{'s' * (len(value) > 1)}"
        span = f" over {value[-1, 0]:.3g}" if self.time and len(value) > 1 else ""
        return shortened(f"{count}{span}" + (f", last {last}" if last else ""))

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        return f"{spanned((len(v) for v in values), 'events')} of {first_of(self.columns)}"

    def attributes(self) -> dict[str, Attribute]:
        return {
            "events": Attribute("number", lambda value: float(len(value))),
            "span": Attribute("number", lambda value: float(value[-1, 0])),
        }

    def queries(self, value: Any) -> list[Raw]:
        """One record is a list of objects, or an object of lists."""
        value = from_json(value)
        if not isinstance(value, (list, tuple)):
            return [value]
        files = all(isinstance(v, (str, bytes, Path)) for v in value)
        return list(value) if files or all(map(_is_record, value)) else [value]

    def json_schema(self, limits: Limits) -> Schema:
        rows = {"type": "array", "items": {"type": "object"}, "minItems": 1}
        return {"anyOf": [rows, {"type": "object", "minProperties": 1}]}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        return cells_of(raw, limits)

    def deviation(self, value: np.ndarray) -> np.ndarray:
        cells = self.cells()  # its last column is the gap
        return np.append(0.0, (np.array(cells.scale()[1]) * np.array(cells.numeric()))[:-1])

    def exchanged(self, value: np.ndarray, other: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """An event keeps its time."""
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


class EventsTokenizer(nn.Module):
    """One token for each event: the sum of the vectors of its fields and of its gap (as for the
    cells of a table), which is a linear map of the fields' embeddings end to end."""

    def __init__(self, events: Events, width: int):
        super().__init__()
        self.events = events
        self.cells = TableTokenizer(events.cells(), width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Positions (time since the first event in steps, number of the event, 0)."""
        events = column.values
        rows = self.events.table(events)
        each = Column(rows, torch.arange(len(rows), device=rows.device))
        x = self.cells(each, name, len(rows)).x
        time = events.flat[:, 0] / self.events.step
        position = torch.stack(
            [time, _ragged.steps(events.lengths).to(time.dtype), torch.zeros_like(time)], 1
        )
        return Tokens.of(x, column.rows, events.lengths, position, name, size)


class EventsGraph(nn.Module):
    """Dense form of `EventsTokenizer`."""

    inputs = {
        "events": "(N, events, 1 + fields) float32, in order of time: the time since the first event, then of each field the "
        "number, or the place of the category in its list (the list's length for one that is not "
        "in it); NaN where a cell is "
        "missing; anything past the end",
        "lengths": "(N,) int64: events of each record, at least 1",
    }
    axes = ({0: "batch", 1: "events"}, {0: "batch"})

    def __init__(self, tokenizer: nn.Module):
        super().__init__()
        self.events, self.table = tokenizer.events, TableGraph(tokenizer.cells)

    def forward(self, events: Tensor, lengths: Tensor) -> _dense.Tokenised:
        there = _dense.within(events, lengths)
        events = torch.where(there.unsqueeze(2), events, 0.0)
        time = events[:, :, 0] / self.events.step
        gap = nn.functional.pad((time[:, 1:] - time[:, :-1]).clamp(min=0), (1, 0))
        gap = gap.log1p() if self.events.log else gap
        cells = torch.cat([events[:, :, 1:], gap.unsqueeze(2)], 2)
        x_NLD = self.table(cells.flatten(0, 1))[0].reshape(*cells.shape[:2], -1)
        number = torch.arange(events.shape[1], device=events.device).to(time.dtype).expand_as(time)
        return x_NLD, torch.stack([time, number, torch.zeros_like(time)], 2), there

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        values = []
        for k in _dense.lengths_of(n, length):
            times = rng.exponential(self.events.step, k).cumsum()
            cells = np.stack(self.table.examples(k, length, rng))[:, :-1]
            values.append(
                np.concatenate([(times - times[0])[:, None], cells], 1).astype(np.float32)
            )
        return values
