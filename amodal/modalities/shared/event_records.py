"""Records of events: lists of objects, or objects of lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amodal.errors import described
from amodal.modalities.shared.base import BadValue, Raw, listed
from amodal.modalities.shared.cells import category, is_date, is_missing, number, plain
from amodal.modalities.shared.columns import TIME_COLUMNS
from amodal.modalities.shared.files import read_bytes
from amodal.modalities.shared.formatting import not_json

MAX_CELLS = 2**26
MAX_SAMPLED_EVENTS = 20_000
"""Events from which the fields are measured."""


def read(raw: Raw) -> dict[str, list[Any]]:
    """Field -> its cells, all of one length, at least one.

    Args:
        raw: a list of objects, an object of lists, or either as JSON.

    Raises:
        BadValue: it is neither, or fields differ in length.
    """
    if isinstance(raw, (Path, bytes)):
        raw = _from_json(read_bytes(raw))
    if isinstance(raw, np.ndarray):
        raw = {name: raw[name] for name in raw.dtype.names} if raw.dtype.names else raw.tolist()
    if isinstance(raw, (list, tuple)):
        bad = next((i for i, event in enumerate(raw) if not isinstance(event, Mapping)), None)
        if bad is not None:
            raise BadValue(
                f"event {bad} is no object with named fields, but a {type(raw[bad]).__name__}"
            )
        names = dict.fromkeys(str(name) for event in raw for name in event)
        # each event with names of its own: a small file that would fill the memory
        if len(names) * len(raw) > MAX_CELLS:
            raise BadValue(f"{len(raw):,} events of {len(names):,} different fields")
        record = {name: [event.get(name) for event in raw] for name in names}
    elif isinstance(raw, Mapping):
        record = {
            str(name): _cell_list(cells, str(name))
            for name, cells in raw.items()
            if cells is not None
        }
    else:
        raise BadValue(
            f"a {type(raw).__name__} is no events: expected a list of objects, or an object of "
            "lists"
        )
    if len({len(cells) for cells in record.values()}) > 1:
        raise BadValue(
            f"fields of different length ({listed(f'{n}: {len(c)}' for n, c in record.items())})"
        )
    if not record or not len(next(iter(record.values()))):
        raise BadValue("no events")
    return record


def _cell_list(cells: Any, name: str) -> list[Any]:
    if isinstance(cells, np.ndarray):
        cells = [plain(c) for c in cells] if cells.dtype.kind == "M" else cells.tolist()
    if not isinstance(cells, (list, tuple)):
        raise BadValue(
            f"{name}: expected a list with a cell for each event, got {described(cells)}"
        )
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
        raise BadValue(not_json(error)) from None


def numbers_of(cells: list[Any], name: str) -> np.ndarray:
    """(n,) float64, NaN where missing or infinite, dates as seconds."""
    cells = [plain(cell) for cell in cells]  # numpy would take dates for the count in their unit
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


def codes_of(cells: list[Any], names: Sequence[str]) -> np.ndarray:
    """(n,) index of each cell in `names`; their number if it is not there, NaN if it is missing."""
    code = {name: i for i, name in enumerate(names)}
    return np.array(
        [np.nan if is_missing(c) else code.get(category(c), len(names)) for c in cells],
        dtype=np.float64,
    )


def find_time_field(records: Sequence[Mapping[str, list[Any]]], names: Mapping[str, None]) -> str:
    """The field of times, by its name, else by the dates that it holds; "" if there is none."""
    lower = {name.lower(): name for name in reversed(list(names))}
    called = next((lower[c] for c in TIME_COLUMNS if c in lower), None)
    if called is not None:
        return called
    for name in names:
        cells = [c for record in records[:20] for c in record.get(name, []) if not is_missing(c)]
        if cells and all(map(is_date, cells)):
            return name
    return ""


def is_nested(records: Sequence[Mapping[str, list[Any]]], name: str) -> bool:
    """Whether a field holds lists or objects, which are no cells."""
    return any(
        isinstance(c, (list, tuple, dict, np.ndarray))
        for record in records
        for c in record.get(name, [])[:3]
    )


def sample_events(
    records: Sequence[Mapping[str, list[Any]]], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Up to MAX_SAMPLED_EVENTS events as rows, evenly spaced over all records."""
    ends = np.cumsum([len(next(iter(record.values()))) for record in records])
    rows = []
    for event in np.unique(
        np.linspace(0, ends[-1] - 1, min(MAX_SAMPLED_EVENTS, ends[-1])).astype(int)
    ):
        i = int(np.searchsorted(ends, event, side="right"))
        event -= ends[i] - len(next(iter(records[i].values())))
        rows.append({c: records[i][c][event] for c in columns if c in records[i]})
    return rows


def cells_of_row(
    row: np.ndarray, columns: Sequence[str], categories: Mapping[str, Sequence[str]]
) -> dict[str, str | float | None]:
    """Column -> a class, a number, or None where the cell is NaN."""
    cells: dict[str, str | float | None] = {}
    for name, cell in zip(columns, row.tolist()):
        missing = np.isnan(cell)
        cells[name] = (
            None if missing else categories[name][int(cell)] if name in categories else cell
        )
    return cells
