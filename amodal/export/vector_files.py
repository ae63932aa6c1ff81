"""Files of vectors, by the ending of their names: .parquet, .csv, .npy, and folders .lance."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from amodal.core import AmodalError
from amodal.data.readers import lance_table
from amodal.errors import nearest

COLUMNS = ["key", "source", "vector"]
SHARED = ["key", "source"]
"""Columns whose values repeat, which Parquet writes as numbers of a dictionary."""
ROWS = ".rows.csv"
"""The ending of the file beside a .npy that says which record and field each row is of."""

Plan = Mapping[str, Any]


def replace_file(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file as a whole or not at all."""
    draft = file.with_name(f".{file.name}.draft")
    try:
        write(draft)
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def check_suffix(out: Path) -> None:
    """Raises AmodalError for a file whose ending is not one of those that are written, and for one
    of a format whose package is not installed."""
    if out.suffix == lance_table.SUFFIX:
        lance_table.library()
    if out.suffix not in WRITERS:
        better = next(iter(nearest(out.suffix.lower(), WRITERS)), ".parquet")
        named = out.with_suffix(better) if out.name else f"vectors{better}"
        raise AmodalError(
            f"vectors are written as {', '.join(WRITERS)}, and {out} ends in "
            f"{out.suffix or 'no suffix'}; call it {named}"
        )


def holds_vectors(file: Path) -> bool:
    """Whether a file is one that was written here, and may be replaced."""
    try:
        if file.suffix == ".csv":
            with file.open(encoding="utf-8") as stream:
                return stream.readline().startswith("key,source,v0")
        if file.suffix == ".npy":
            return _holds_rows(beside(file))
        if file.suffix == lance_table.SUFFIX:
            return lance_table.is_lance(file) and _lance_names(file) == COLUMNS
        names: list[str] = pq.read_schema(file).names
        return names == COLUMNS
    except (OSError, ValueError, pa.ArrowInvalid):
        return False


def _lance_names(folder: Path) -> list[str]:
    names: list[str] = lance_table.library().dataset(str(folder)).schema.names
    return names


def _holds_rows(file: Path) -> bool:
    with file.open(encoding="utf-8") as stream:
        return stream.readline().replace('"', "").strip() == ",".join(SHARED)


def beside(file: Path) -> Path:
    """The file of the rows of a .npy."""
    return file.with_suffix(ROWS)


def write_vectors_of(parts: Iterable[Path], out: Path, plan: Plan) -> int:
    """All parts as one file, a part in memory at a time.

    Args:
        parts: Parquet files of the columns COLUMNS.
        out: The file, in the format of its ending.
        plan: What a Parquet file says about them: encoder, data, fields.

    Returns:
        The number of vectors.
    """
    return WRITERS[out.suffix](list(parts), out, plan)


def _parquet(parts: list[Path], out: Path, plan: Plan) -> int:
    about = {
        f"amodal.{name}": json.dumps(plan[name]) if name == "fields" else str(plan[name])
        for name in ("encoder", "data", "fields")
    }
    schema = pq.read_schema(parts[0]).with_metadata(about)

    def write(draft: Path) -> None:
        with pq.ParquetWriter(draft, schema, use_dictionary=SHARED) as writer:
            for part in parts:
                table = pq.ParquetFile(part).read()
                writer.write_table(table.replace_schema_metadata(about))

    replace_file(out, write)
    return _count(parts)


def _csv(parts: list[Path], out: Path, plan: Plan) -> int:
    """key, source, v0, v1, …"""

    def write(draft: Path) -> None:
        with draft.open("wb") as stream:
            for number, part in enumerate(parts):
                table = pq.ParquetFile(part).read()
                matrix = _matrix(table)
                columns = {name: table.column(name) for name in SHARED}
                columns |= {f"v{i}": pa.array(matrix[:, i]) for i in range(matrix.shape[1])}
                options = pa_csv.WriteOptions(include_header=not number, quoting_style="needed")
                # quotes around names of columns would hide them from `holds_vectors`
                text = pa.BufferOutputStream()
                pa_csv.write_csv(pa.table(columns), text, options)
                content = text.getvalue().to_pybytes()
                if not number:
                    head, _, rest = content.partition(b"\n")
                    content = head.replace(b'"', b"") + b"\n" + rest
                stream.write(content)

    replace_file(out, write)
    return _count(parts)


def _npy(parts: list[Path], out: Path, plan: Plan) -> int:
    """(n, D) float32, and beside it which record and field each row is of."""
    total, width = _count(parts), pq.read_schema(parts[0]).field("vector").type.list_size
    rows = beside(out)
    if rows.exists() and not _holds_rows(rows):
        raise AmodalError(f"{rows} is there already and says no rows; remove it, or rename {out}")

    def write_rows(draft: Path) -> None:
        tables = [pq.ParquetFile(part).read(columns=SHARED) for part in parts]
        table = pa.concat_tables(tables).replace_schema_metadata(None)
        pa_csv.write_csv(table, draft, pa_csv.WriteOptions(quoting_style="needed"))

    def write(draft: Path) -> None:
        with draft.open("wb") as stream:  # a name: numpy would add its ending to a draft's
            np.lib.format.write_array_header_1_0(
                stream, {"descr": "<f4", "fortran_order": False, "shape": (total, width)}
            )
            for part in parts:
                stream.write(_matrix(pq.ParquetFile(part).read()).astype("<f4").tobytes())

    replace_file(rows, write_rows)
    replace_file(out, write)
    return total


def _lance(parts: list[Path], out: Path, plan: Plan) -> int:
    """A table of Lance, whose new version counts once it is whole."""
    schema = pq.read_schema(parts[0]).remove_metadata()

    def batches() -> Iterator[pa.RecordBatch]:
        for part in parts:
            table = pq.ParquetFile(part).read().replace_schema_metadata(None)
            yield from table.cast(schema).to_batches()

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    lance_table.library().write_dataset(reader, str(out), mode="overwrite")
    return _count(parts)


def _matrix(table: pa.Table) -> np.ndarray:
    column = table.column("vector")
    chunks = [np.zeros(0, np.float32), *(chunk.flatten().to_numpy() for chunk in column.chunks)]
    return np.concatenate(chunks).reshape(len(table), column.type.list_size)


def _count(parts: list[Path]) -> int:
    return sum(pq.read_metadata(part).num_rows for part in parts)


WRITERS: dict[str, Callable[[list[Path], Path, Plan], int]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".npy": _npy,
    lance_table.SUFFIX: _lance,
}
"""Ending -> what writes such a file."""
