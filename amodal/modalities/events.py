"""Time-stamped events of one record: what a customer bought, what a patient was given, the notes of a tune.

Raw: a list of objects, each with its time, `[{"time": 0.5, "item": "tea", "price": 2.5}, ...]`, or the same as columns of
one length, `{"time": [0.5, ...], "item": ["tea", ...], "price": [2.5, ...]}`; in a table that is JSON in JSONL, list<struct>
or struct<list> in Parquet. Times are numbers in any unit or dates (then seconds); they need be neither regular nor in
order. Fields are numbers or categories, and any cell but the time may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged, Tokens
from amodal.errors import nearest
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared.base import (
    BadValue,
    Raw,
    at_most,
    build,
    check_view,
    decodable,
    is_missing,
    listed,
    moments,
    read_bytes,
    shortened,
    tidy,
)
from amodal.modalities.shared.columns import CLOCKS
from amodal.modalities.table import Table, TableTokenizer, is_date, number

CROPS = {"weak": (0.8, 1.0), "strong": (0.5, 1.0), "local": (0.2, 0.6)}  # share of the events
DROPPED = {"weak": 0.05, "strong": 0.2, "local": 0.0}  # events left out, one by one
MOVED = {"weak": 0.0, "strong": 0.2, "local": 0.0}  # events whose fields change places with those one or two later
NOISE = {"weak": 0.02, "strong": 0.1, "local": 0.0}  # of numbers in deviations, of gaps as a share
GAP = "time since the last event"
MOST_CELLS = 2**26
LOOKED_AT = 20_000
"""Events from which `infer` measures the fields."""


@dataclass(frozen=True)
class Events:
    """A value is (n, 1 + C) float32, events in order of time: the time since the first event, then the number or the
    code of the category of each field, NaN where it is missing. One token for each event.

    columns: the fields, in order, without the time; categories: field -> the values of a categorical one, all others are
    numeric; time: the field that says when, "" if nothing does: then events are one step apart;
    step: the usual time between two events, in the unit of the data; log: see gaps as log(1 + gap / step), for times that
    differ by orders of magnitude, else as gap / step; max_events: of longer records the last so many are read;
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

    suffixes: ClassVar[frozenset[str]] = frozenset({".events"})

    def __post_init__(self):
        if len({*self.columns, self.time, GAP}) < len(self.columns) + 2:
            raise AmodalError(
                f"events.columns must be different names, without the time {self.time!r}, got {list(self.columns)}"
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, len(self.columns) + 1):
                raise AmodalError(
                    f"events.{name} has {len(getattr(self, name))} numbers for {len(self.columns)} fields and the gaps"
                )
        if self.max_events < 1 or not self.step > 0:
            raise AmodalError(
                f"events need max_events of at least 1 and a step above 0, got {self.max_events} and {self.step}"
            )
        at_most("events", {"max_events": (self.max_events, 2**24)})
        self.cells()  # categories of fields that there are

    @classmethod
    def infer(cls, samples: Sequence[Raw], **given) -> Events:
        """time: the first field that is called like one, or that holds dates; categories, mean and std as for a table;
        step: the median gap; room for a quarter more events than the longest sample has, up to 1,024."""
        records, first = [], None
        for raw in samples:
            try:
                records.append(_read(raw))
            except BadValue as error:
                first = first or error
        if not records:
            raise first or BadValue("no samples to look at")
        names = dict.fromkeys(name for record in records for name in record)
        time = given.get("time", _clock(records, names))
        columns = tuple(given.get("columns", [n for n in names if n != time and not _nested(records, n)]))
        longest = max(len(next(iter(record.values()))) for record in records)
        measured = {"time": time, "columns": columns, "max_events": min(1024, max(8, longest * 5 // 4))}
        if columns:
            table = Table.infer(_some_events(records, columns), columns=columns)
            measured["categories"] = table.categories
        events = build(cls, measured | given)
        values = decodable(events, samples)
        if "step" not in given:
            gaps = np.concatenate([np.diff(v[:, 0]) for v in values])
            events = replace(events, step=tidy(float(np.median(gaps[gaps > 0]))) if (gaps > 0).any() else 1.0)
        mean, std = moments(np.concatenate([events.rows(v) for v in values]))
        numeric = events.cells().numeric()
        mean, std = (tuple(m if n else d for m, n in zip(ms, numeric)) for ms, d in ((mean, 0.0), (std, 1.0)))
        return replace(events, mean=events.mean or mean, std=events.std or std)

    def cells(self) -> Table:
        """An event as the row of a table, its gap in the last column; all of a row in one token."""
        columns = (*self.columns, GAP)
        return Table(columns, self.categories, self.mean, self.std, patch=len(columns))

    def decode(self, raw: Raw) -> np.ndarray:
        """(n, 1 + C) float32 from a list of objects, or an object of lists; also as JSON or lines of JSON (Path, bytes).
        Fields that the schema does not have are passed over, absent ones are missing."""
        record = _read(raw)
        length = len(next(iter(record.values())))
        if self.columns and not any(c in record for c in self.columns):
            close = next((near[0] for name in record if (near := nearest(name, self.columns))), "")
            hint = f"; did you mean {close}?" if close else ""
            raise BadValue(f"none of the fields {listed(self.columns)}; it has {listed(record)}{hint}")
        times = self._times(record) if self.time else np.arange(length, dtype=np.float64)
        order = np.argsort(times, kind="stable")[-self.max_events :]
        value = np.full((len(order), 1 + len(self.columns)), np.nan, dtype=np.float32)
        value[:, 0] = times[order] - times[order[0]]
        for i, name in enumerate(self.columns, 1):
            if name in record:
                cells = record[name]
                codes = self.categories.get(name)
                value[:, i] = (_numbers(cells, name) if codes is None else _codes(cells, codes))[order]
        if self.columns and np.isnan(value[:, 1:]).all():
            raise BadValue("every cell is missing")
        return value

    def _times(self, record: Mapping[str, list]) -> np.ndarray:
        if self.time not in record:
            raise BadValue(f"no time {self.time!r}; it has {listed(record)}")
        times = _numbers(record[self.time], self.time)
        if np.isnan(times).any():
            raise BadValue(f"event {int(np.isnan(times).argmax())} has no {self.time}")
        return times

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """local: 20-60 % of the events, one after another, as they are (CoLES: Babaev et al., 2022); weak: 80-100 %, of
        which one in twenty is left out, numbers and gaps changed by about 2 %; strong: 50-100 %, one in five left out,
        one in five changes places with a neighbour, one cell in ten missing, numbers and gaps changed by about 10 %."""
        check_view(view)
        if view == "plain":
            return value
        out = value[_ragged.crop(len(value), *CROPS[view], rng, least=2)]
        if view != "local":
            kept = rng.random(len(out)) >= DROPPED[view]
            out = out[kept] if kept.any() else out
            late = np.arange(len(out)) + np.where(rng.random(len(out)) < MOVED[view], 3 * rng.random(len(out)), 0)
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
        """(T,) how long after the event before it each came, as `log` and `step` say; 0 for the first of a record."""
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

    def targets(self, events: Ragged) -> Tensor:
        """(T, 2 C + 2): see `Table.targets`: every field of the event, and its gap."""
        return self.cells().targets(self.table(events))

    def predictor(self, width: int) -> nn.Linear:
        """A number for each field and the gap, then the logits of each categorical field's codes."""
        return self.cells().predictor(width)

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) squared error of numbers and of the gap in deviations, cross-entropy of codes; the mean of them over the
        fields that an event has."""
        return self.cells().token_loss(prediction, target)

    def show(self, value: np.ndarray) -> np.ndarray:
        """A line for each field over time: numbers by height, categories by colour."""
        return _draw.marks(value[:, 0], {c: value[:, i] for i, c in enumerate(self.columns, 1)}, set(self.categories))

    def describe(self, value: np.ndarray) -> str:
        """How many, over which time, and the fields of the last."""
        row = np.append(value[-1, 1:], np.float32(np.nan))
        last = ", ".join(f"{c}={v}" for c, v in self.cells().cells(row).items())
        count = f"{len(value)} event{'s' * (len(value) > 1)}"
        span = f" over {value[-1, 0]:.3g}" if self.time and len(value) > 1 else ""
        return shortened(f"{count}{span}" + (f", last {last}" if last else ""))


class EventsTokenizer(nn.Module):
    """One token for each event: the sum of the vectors of its fields and of its gap (as for the cells of a table), which
    is a linear map of the fields' embeddings end to end."""

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
        position = torch.stack([time, _ragged.steps(events.lengths).to(time.dtype), torch.zeros_like(time)], 1)
        return Tokens.of(x, column.rows, events.lengths, position, name, size)


def _read(raw: Raw) -> dict[str, list]:
    """Field -> its cells, all of one length, at least one."""
    if isinstance(raw, (Path, bytes)):
        raw = _from_json(read_bytes(raw))
    if isinstance(raw, np.ndarray):
        raw = {name: raw[name] for name in raw.dtype.names} if raw.dtype.names else raw.tolist()
    if isinstance(raw, (list, tuple)):
        odd = next((i for i, event in enumerate(raw) if not isinstance(event, Mapping)), None)
        if odd is not None:
            raise BadValue(f"event {odd} is no object with named fields, but a {type(raw[odd]).__name__}")
        names = dict.fromkeys(str(name) for event in raw for name in event)
        if len(names) * len(raw) > MOST_CELLS:  # each event with names of its own: a small file that fills the memory
            raise BadValue(f"{len(raw):,} events of {len(names):,} different fields")
        record = {name: [event.get(name) for event in raw] for name in names}
    elif isinstance(raw, Mapping):
        record = {str(name): _listed(cells, str(name)) for name, cells in raw.items() if cells is not None}
    else:
        raise BadValue(f"a {type(raw).__name__} is no events: expected a list of objects, or an object of lists")
    if len({len(cells) for cells in record.values()}) > 1:
        raise BadValue(f"fields of different length ({listed(f'{n}: {len(c)}' for n, c in record.items())})")
    if not record or not len(next(iter(record.values()))):
        raise BadValue("no events")
    return record


def _listed(cells: Any, name: str) -> list:
    cells = cells.tolist() if isinstance(cells, np.ndarray) else cells
    if not isinstance(cells, (list, tuple)):
        raise BadValue(f"{name}: expected a list with a cell for each event, got {cells!r}"[:200])
    return list(cells)


def _from_json(data: bytes) -> Any:
    """A JSON value, or one on each line."""
    try:
        text = data.decode("utf-8-sig").strip()
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise BadValue(f"not JSON: {error}") from None


def _numbers(cells: list, name: str) -> np.ndarray:
    """(n,) float64, NaN where missing or infinite, dates as seconds."""
    try:
        values = np.array(cells, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array([_number(cell, name) for cell in cells], dtype=np.float64)
    if values.ndim != 1:
        raise BadValue(f"{name}: a cell must be a number, a text or missing, not a list")
    with np.errstate(over="ignore"):
        return np.where(np.isfinite(values.astype(np.float32)), values, np.nan)


def _number(cell: Any, name: str) -> float:
    try:
        return number(cell)
    except ValueError:
        raise BadValue(f"{name}: {cell!r} is not a number"[:200]) from None


def _codes(cells: list, names: Sequence[str]) -> np.ndarray:
    """(n,) the place of each cell among `names`, after the last where it is not there, NaN where it is missing."""
    code = {name: i for i, name in enumerate(names)}
    return np.array([np.nan if is_missing(c) else code.get(_category(c), len(names)) for c in cells], dtype=np.float64)


def _category(cell: Any) -> str:
    """As a table has it: 3.0 is "3"."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _clock(records: Sequence[Mapping[str, list]], names: Mapping[str, None]) -> str:
    """The field that says when: by its name, else by the dates that it holds; "" if there is none."""
    lower = {name.lower(): name for name in reversed(list(names))}
    called = next((lower[c] for c in CLOCKS if c in lower), None)
    if called is not None:
        return called
    for name in names:
        cells = [c for record in records[:20] for c in record.get(name, []) if not is_missing(c)]
        if cells and all(map(is_date, cells)):
            return name
    return ""


def _nested(records: Sequence[Mapping[str, list]], name: str) -> bool:
    """Whether a field holds lists or objects, which are no cells."""
    return any(isinstance(c, (list, tuple, dict, np.ndarray)) for record in records for c in record.get(name, [])[:3])


def _some_events(records: Sequence[Mapping[str, list]], columns: Sequence[str]) -> list[dict]:
    """Up to LOOKED_AT events, evenly from all records, as rows."""
    ends = np.cumsum([len(next(iter(record.values()))) for record in records])
    rows = []
    for at in np.unique(np.linspace(0, ends[-1] - 1, min(LOOKED_AT, ends[-1])).astype(int)):
        i = int(np.searchsorted(ends, at, side="right"))
        at -= ends[i] - len(next(iter(records[i].values())))
        rows.append({c: records[i][c][at] for c in columns if c in records[i]})
    return rows
