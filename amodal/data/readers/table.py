"""CSV, TSV, JSONL, JSON and Parquet.

A row is a record. Cells are values, or paths relative to the file.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa

from amodal.core import AmodalError
from amodal.data.readers._content import row_hashes
from amodal.data.readers._csv_rows import comments_before_names, rows_of
from amodal.data.readers._parts import Lists, Parquet, TablePart
from amodal.data.readers._tabular import Tabular
from amodal.data.readers._written_numbers import MISSING, is_fraction, plain_numbers
from amodal.data.readers.base import Cell
from amodal.data.remote import AnyPath, Remote, as_path, parallel_map
from amodal.data.splits import SPELLINGS

MOST_CELLS = 2**27
"""Rows times columns above which a table may not be nearly empty: a small file would fill the
memory."""
DAMAGED = "\0damaged"
"""The column of damaged lines in hashes, which no file can have."""
CONTROLS = re.compile(rb"[\x80-\x9f]")
"""Control characters of Latin-1, which no table has: in Windows-1252 they are quotes and dashes."""
SUFFIXES = {".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet"}


class Table(Tabular):
    """The rows of all files, one file after the other.

    Args:
        paths: of the files.
        key: the column that names the records, "" for hashes of the rows.

    Raises:
        AmodalError: a file is no table, or there are no rows.
    """

    lists_as_arrays = True

    def __init__(self, paths: Sequence[AnyPath], key: str = "") -> None:
        paths = [as_path(path) for path in paths]
        parts = parallel_map(read, paths, isinstance(paths[0], Remote))
        super().__init__(parts, paths, paths[0].parent, key, extra_columns=_split(parts, paths))
        if len(paths) > 1 and self.extra_columns:
            names = ", ".join(path.name for path in paths)
            self.notes = (*self.notes, f"each of {names} is a part of the split")


def _split(parts: Sequence[TablePart], paths: Sequence[AnyPath]) -> dict[str, list[Cell]]:
    """The part of each row by the name of its file, where all files are called after parts."""
    names = [path.name.partition(".")[0].lower() for path in paths]
    taken = any("split" in part.columns for part in parts)
    if taken or len(set(names)) < 2 or not set(names) <= set(SPELLINGS):
        return {}
    return {"split": [name for name, part in zip(names, parts) for _ in range(part.rows)]}


def read(path: AnyPath) -> TablePart:
    """Read a file as a part of a table.

    Raises:
        AmodalError: it is no table.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        try:
            return Parquet(path)
        except AmodalError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise AmodalError(
                f"{path} is no complete Parquet file: {error}. Download it anew."
            ) from error
    if ending not in SUFFIXES:
        raise AmodalError(
            f"{path} is no table that can be read; expected one of {', '.join(sorted(SUFFIXES))}"
        )
    text = _text(path)
    return _csv(text, path) if ending in (".csv", ".tsv") else _json(text, path)


def _text(path: AnyPath) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32.

    Raises:
        AmodalError: it is in another encoding.
    """
    content = path.read_bytes()
    try:
        text = content.decode(_encoding(content))
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        encoding = error.encoding.upper()
        where = f"{path} is no text in {encoding} (byte {error.start:,})."
        if encoding != "UTF-8":
            raise AmodalError(f"{where} Is it whole? Copy it anew, or save it as UTF-8.") from error
        older = "WINDOWS-1252" if CONTROLS.search(content) else "LATIN1"
        name, draft = shlex.quote(path.name), shlex.quote(f"{path.stem}.utf8")
        raise AmodalError(
            f"{where} If it is of an older program, in {older} say: iconv -f {older} -t UTF-8 "
            f"{name} > {draft} && mv {draft} {name}"
        ) from error


def _encoding(content: bytes) -> str:
    """UTF-32 and UTF-16 by their marks or, without one, by the zeros of the beginning, where a
    table has ASCII; else UTF-8."""
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # before UTF-16's
        return "utf-32"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    filled = [bool(byte) for byte in content[:8]]
    if filled in ([True, False, False, False] * 2, [False, False, False, True] * 2):
        return "utf-32-le" if filled[0] else "utf-32-be"
    first, second = content[:8:2], content[1:8:2]
    if len(second) > 1 and len(first) == len(second):
        if all(first) and not any(second):
            return "utf-16-le"
        if all(second) and not any(first):
            return "utf-16-be"
    return "utf-8-sig"


def _csv(text: str, path: AnyPath) -> Lists:
    csv.field_size_limit(sys.maxsize)
    lines = text.split("\n")
    lines = [f"{line}\n" for line in lines[:-1]] + lines[-1:]
    # a line that spreadsheets write for themselves
    declared = re.fullmatch(r'"?sep=(.)"?', lines[0].strip("\ufeff\n"))
    named = next((line for line in lines if not line.startswith("#")), lines[0])
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=named.count)
    delimiter = declared[1] if declared else delimiter
    try:
        before = 1 if declared else comments_before_names(lines, delimiter)
        found = rows_of(lines, delimiter, before)
    except csv.Error as error:
        raise AmodalError(f"{path} is no table: {error}") from error
    rows = [row.cells for row in found]
    if not rows:
        raise AmodalError(f"{path} is empty. Its first line must name the columns.")
    if found[0].reason:
        raise AmodalError(f"{path.name}, line {found[0].line}: {found[0].reason}. It has the names")
    names = [name.strip() or f"column{i + 1}" for i, name in enumerate(rows[0])]
    if repeated := [name for name, n in Counter(names).items() if n > 1]:
        raise AmodalError(
            f"{path}: more than one column is called {repeated[0]!r}. "
            "Give each its own name in the first line."
            + (" Is it one of names?" if re.fullmatch(r"[+-]?[\d.]+", repeated[0]) else "")
        )
    damaged = {}
    for n, row in enumerate(found[1:]):
        reason = row.reason
        if len(row.cells) > len(names):
            reason = f"{len(row.cells)} cells, but the first line names {len(names)}"
        if reason:
            damaged[n] = f"{path.name}, line {row.line}: {reason}"
    if damaged and 2 * len(damaged) >= len(rows) - 1:
        raise AmodalError(
            f"{next(iter(damaged.values()))}; {len(damaged):,} of {len(rows) - 1:,} lines cannot "
            "be read. Is the first line that of the names?"
        )
    whole = [[] if n in damaged else row for n, row in enumerate(rows[1:])]
    cells = {
        name: [row[c] if c < len(row) else "" for row in whole] for c, name in enumerate(names)
    }
    # Hashes are of the text of the cells: one that is no number turns its whole column into text,
    # and that must not change the keys of the other rows.
    texts: dict[str, Iterable[str | None]] = {n: map(str.strip, c) for n, c in cells.items()}
    if damaged:
        texts[DAMAGED] = [
            delimiter.join(row) if n in damaged else None for n, row in enumerate(rows[1:])
        ]
    hashes = row_hashes(texts.items(), len(whole))
    plain, notes = plain_numbers(cells, delimiter)
    columns = {name: typed(plain.get(name, column)) for name, column in cells.items()}
    if before and not declared:
        notes.append(f"{before} lines before the names begin with # and are no records")
    if odd := [name for name in names if is_fraction(name)]:
        notes.append(
            f"the first line names the columns, and has numbers: {', '.join(odd[:3])}. If it is a "
            "record, write a line of names before it"
        )
    return Lists(columns, len(whole), hashes, damaged, notes)


def _json(text: str, path: AnyPath) -> Lists:
    if text.lstrip().startswith("["):
        try:
            objects = json.loads(text)
        except (ValueError, RecursionError) as error:
            where = (
                f", line {error.lineno}: {error.msg}"
                if isinstance(error, json.JSONDecodeError)
                else f": {error}"
            )
            raise AmodalError(f"{path}{where}") from error
        damaged: dict[int, str] = {}
    else:
        objects, damaged = _lines(text, path)
    wrong = next((i for i, o in enumerate(objects) if not isinstance(o, dict)), None)
    if wrong is not None:
        raise AmodalError(
            f"{path}: record {wrong} is no object with named values, "
            f"but {type(objects[wrong]).__name__}"
        )
    names = dict.fromkeys(name for o in objects for name in o)
    if len(names) * len(objects) > max(MOST_CELLS, 1000 * sum(map(len, objects))):
        raise AmodalError(
            f"{path}: {len(objects):,} records have {len(names):,} different names, hardly one of "
            "them twice. Give each value the name of what it is, the same in all records."
        )
    columns = {name: [o.get(name) for o in objects] for name in names}
    hashes = None
    if damaged:
        reasons = [damaged.get(n) for n in range(len(objects))]
        hashes = row_hashes([*columns.items(), (DAMAGED, reasons)], len(objects))
    return Lists(columns, len(objects), hashes, damaged)


def _lines(text: str, path: AnyPath) -> tuple[list[Any], dict[int, str]]:
    """The objects of JSONL, {} for a line that is none; and its number among them -> why."""
    lines, objects, damaged = text.split("\n"), list[Any](), dict[int, str]()
    for number, line in enumerate(lines, 1):
        if line.strip():
            reason = ""
            try:
                one = json.loads(line)
                reason = "" if isinstance(one, dict) else "it is no object with named values"
            except json.JSONDecodeError as error:
                # The last line has no newline: the writer was stopped, all lines before are whole.
                if number == len(lines):
                    break
                reason = error.msg
            # Numbers and nesting beyond what Python reads.
            except (ValueError, RecursionError) as error:
                reason = str(error)
            if reason:
                damaged[len(objects)] = f"{path.name}, line {number}: {reason}"
            objects.append({} if reason else one)
    if damaged and 2 * len(damaged) >= len(objects):
        raise AmodalError(
            f"{next(iter(damaged.values()))}; {len(damaged):,} of {len(objects):,} lines cannot be "
            "read. Each line must be one JSON object."
        )
    return objects, damaged


def typed(texts: Sequence[str]) -> list[Cell]:
    """Convert the cells of a CSV column to the type that all of them fit.

    Types are whole numbers, numbers, truth values and JSON lists, else text. Empty cells are
    missing, and so are those that pandas and R write for missing ones (NA, NaN, null, …). Numbers
    with leading zeros (post codes, ids) stay text.

    Args:
        texts: the cells.
    """
    cells = [None if text.strip() in MISSING else text for text in texts]
    different = {cell for cell in cells if cell is not None}
    parse: Callable[[str], Cell]
    for parse in (_whole, _number, _truth, _list):
        try:
            parsed = {cell: parse(cell.strip()) for cell in different}
        except ValueError:
            continue
        if different and all(value is None for value in parsed.values()):
            continue  # the column has only "none", which is a word
        return [None if cell is None else parsed[cell] for cell in cells]
    return cells


def _whole(cell: str) -> int:
    digits = cell.lstrip("+-")
    if not digits.isascii() or not digits.isdigit() or (len(digits) > 1 and digits[0] == "0"):
        raise ValueError
    return int(cell)


def _number(cell: str) -> float | None:
    if cell.lower() in ("nan", "na", "n/a", "null", "none"):  # missing, where the rest are numbers
        return None
    digits = cell.lstrip("+-")
    if digits[:1] == "0" and digits[1:2].isdigit():
        raise ValueError
    return float(cell)


def _truth(cell: str) -> bool:
    if cell.lower() not in ("true", "false"):
        raise ValueError
    return cell.lower() == "true"


def _list(cell: str) -> list[Cell]:
    if not cell.startswith("["):
        raise ValueError
    try:
        return list(json.loads(cell))
    except RecursionError as error:
        raise ValueError from error
