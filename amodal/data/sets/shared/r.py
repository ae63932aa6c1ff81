"""Matrices and data frames inside an .RData file, read without R: by walking what `rdata` has
parsed, since the classes of an R package are unknown to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rdata
from rdata.parser import RObject
from rdata.parser import RObjectType as Kind

NUMBERS = (Kind.REAL, Kind.INT, Kind.LGL)


@dataclass(frozen=True)
class Matrix:
    """values: (rows, columns); rows, columns: their names."""

    values: np.ndarray
    rows: tuple[str, ...]
    columns: tuple[str, ...]


def tables(file: Path) -> dict[str, Matrix | dict[str, np.ndarray]]:
    """Path inside the object, as R writes it (`/a@b`), without the slots that only hold lists -> a
    matrix with names, or columns of one length."""
    return {
        path.replace("@listData", ""): found
        for path, found in _walk(rdata.parser.parse_file(file).object, "", set())
    }


def _walk(thing: RObject | None, path: str, seen: set[int]) -> Iterator:
    thing = _itself(thing)
    if thing is None or id(thing) in seen:
        return
    seen.add(id(thing))
    kind, attributes = thing.info.type, dict(_pairs(thing.attributes))
    if kind in NUMBERS and "dim" in attributes and "dimnames" in attributes:
        shape, names = _vector(attributes["dim"]).astype(int), _itself(attributes["dimnames"]).value
        if len(shape) == 2 and all(_itself(n).info.type == Kind.STR for n in names):
            rows, columns = (tuple(_vector(n)) for n in names)
            yield path, Matrix(_vector(thing).reshape(shape, order="F"), rows, columns)
    children = []
    if kind == Kind.VEC:
        names = _vector(attributes["names"]) if "names" in attributes else [None] * len(thing.value)
        children = list(zip(names, thing.value))
        columns = {name: v for name, x in children if (v := _vector(x)) is not None}
        if len(columns) == len(children) > 1 and len({len(v) for v in columns.values()}) == 1:
            yield path, columns
    elif kind in (Kind.LIST, Kind.LANG):
        children = _pairs(thing)
    elif kind == Kind.ENV:
        children = [("frame", thing.value.frame), ("table", thing.value.hash_table)]
    for name, child in children:
        yield from _walk(child, f"{path}/{name}", seen)
    for name, child in attributes.items():
        if name not in ("dim", "dimnames", "names", "levels", "class", "row.names"):
            yield from _walk(child, f"{path}@{name}", seen)


def _itself(thing: RObject | None) -> RObject | None:
    while thing is not None and thing.info.type == Kind.REF:
        thing = thing.referenced_object
    return thing


def _pairs(cells: RObject | None) -> list[tuple[str | None, RObject]]:
    """R's linked lists."""
    found = []
    while cells is not None and cells.info.type in (Kind.LIST, Kind.LANG):
        found.append((None if cells.tag is None else _symbol(cells.tag), cells.value[0]))
        cells = cells.value[1]
    return found


def _symbol(tag: RObject) -> str:
    value = _itself(tag).value
    value = getattr(value, "value", value)
    return value.decode() if isinstance(value, bytes) else str(value)


def _vector(thing: RObject) -> np.ndarray | None:
    """Texts, numbers (NaN where missing), or the texts of a factor; None for anything else."""
    thing = _itself(thing)
    if thing is None:
        return None
    if thing.info.type == Kind.STR:
        texts = (_itself(cell).value for cell in thing.value)
        return np.array(
            [None if text is None else text.decode("utf-8", "replace") for text in texts], object
        )
    if thing.info.type not in NUMBERS:
        return None
    numbers = np.ma.filled(np.ma.asarray(thing.value).astype(float), np.nan)
    levels = dict(_pairs(thing.attributes)).get("levels")
    if levels is None:
        return numbers
    names = _vector(levels)
    return np.array([names[int(x) - 1] if x == x and x >= 1 else None for x in numbers], object)
