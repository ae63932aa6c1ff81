"""Read matrices and data frames from an .RData file, without R.

`rdata` parses the file. Since it does not know the classes of R packages, the objects are searched
for matrices and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rdata
from rdata.parser import RObject
from rdata.parser import RObjectType as Kind

NUMBERS = (Kind.REAL, Kind.INT, Kind.LGL)


@dataclass(frozen=True)
class Matrix:
    """A matrix of R.

    Attributes:
        values: (rows, columns).
        rows: their names.
        columns: their names.
    """

    values: np.ndarray
    rows: tuple[str, ...]
    columns: tuple[str, ...]


def tables(file: Path) -> dict[str, Matrix | dict[str, np.ndarray]]:
    """The matrices with names and the data frames in a file.

    Returns:
        Path inside the object, as R writes it (`/a@b`) but without the slots that only hold lists
        -> a matrix, or columns of one length.
    """
    return {
        path.replace("@listData", ""): value
        for path, value in _walk(rdata.parser.parse_file(file).object, "", set())
    }


def _walk(
    thing: RObject | None, path: str, seen: set[int]
) -> Iterator[tuple[str, Matrix | dict[str, np.ndarray]]]:
    thing = _dereferenced(thing)
    if thing is None or id(thing) in seen:
        return
    seen.add(id(thing))
    kind, attributes = thing.info.type, dict(_pairs(thing.attributes))
    if kind in NUMBERS and "dim" in attributes and "dimnames" in attributes:
        matrix = _matrix(thing, attributes)
        if matrix is not None:
            yield path, matrix
    children: list[tuple[str | None, RObject]] = []
    if kind == Kind.VEC:
        names = _vector(attributes["names"]) if "names" in attributes else None
        children = list(zip([None] * len(thing.value) if names is None else names, thing.value))
        frame = {str(name): v for name, x in children if (v := _vector(x)) is not None}
        if len(frame) == len(children) > 1 and len({len(v) for v in frame.values()}) == 1:
            yield path, frame
    elif kind in (Kind.LIST, Kind.LANG):
        children = _pairs(thing)
    elif kind == Kind.ENV:
        children = [("frame", thing.value.frame), ("table", thing.value.hash_table)]
    for name, child in children:
        yield from _walk(child, f"{path}/{name}", seen)
    for name, child in attributes.items():
        if name not in ("dim", "dimnames", "names", "levels", "class", "row.names"):
            yield from _walk(child, f"{path}@{name}", seen)


def _matrix(thing: RObject, attributes: Mapping[str | None, RObject]) -> Matrix | None:
    """A matrix, if it has two dimensions and names for both."""
    values, shape = _vector(thing), _vector(attributes["dim"])
    listed = _dereferenced(attributes["dimnames"])
    names = [_vector(names) for names in listed.value] if listed is not None else []
    if values is None or shape is None or len(shape) != 2 or len(names) != 2:
        return None
    rows, columns = names
    if rows is None or columns is None or rows.dtype != object or columns.dtype != object:
        return None
    shaped = values.reshape(shape.astype(int), order="F")
    return Matrix(shaped, tuple(rows), tuple(columns))


def _dereferenced(thing: RObject | None) -> RObject | None:
    while thing is not None and thing.info.type == Kind.REF:
        thing = thing.referenced_object
    return thing


def _pairs(cells: RObject | None) -> list[tuple[str | None, RObject]]:
    """R's linked lists."""
    pairs = []
    while cells is not None and cells.info.type in (Kind.LIST, Kind.LANG):
        pairs.append((None if cells.tag is None else _symbol(cells.tag), cells.value[0]))
        cells = cells.value[1]
    return pairs


def _symbol(tag: RObject) -> str:
    symbol = _dereferenced(tag)
    assert symbol is not None  # a reference always leads to an object
    value = getattr(symbol.value, "value", symbol.value)
    return value.decode() if isinstance(value, bytes) else str(value)


def _vector(thing: RObject | None) -> np.ndarray | None:
    """Texts, numbers (NaN where missing), or the texts of a factor; None for anything else."""
    thing = _dereferenced(thing)
    if thing is None:
        return None
    if thing.info.type == Kind.STR:
        cells = (_dereferenced(cell) for cell in thing.value)
        contents = (None if cell is None else cell.value for cell in cells)
        return np.array(
            [None if text is None else text.decode("utf-8", "replace") for text in contents], object
        )
    if thing.info.type not in NUMBERS:
        return None
    numbers = np.ma.filled(np.ma.asarray(thing.value).astype(float), np.nan)
    levels = dict(_pairs(thing.attributes)).get("levels")
    if levels is None:
        return numbers
    names = _vector(levels)
    if names is None:
        return numbers
    return np.array([names[int(x) - 1] if x == x and x >= 1 else None for x in numbers], object)
