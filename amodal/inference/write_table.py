"""Tables of predictions as files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from amodal.core import AmodalError
from amodal.core.whole_file import whole_file


def check_file(path: str | Path) -> Path:
    """The path, if a table can be written to it.

    Raises:
        AmodalError: For another kind of file.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise AmodalError(f"{path}: predictions are written as .csv or .parquet")
    return path


def write_table(table: pa.Table, path: str | Path) -> Path:
    """Write a table as .csv or .parquet; its folder is made.

    Raises:
        AmodalError: For another kind of file, and if it cannot be written.
    """
    return save_table(table, check_file(path))


def save_table(table: pa.Table, path: Path) -> Path:
    """Write a table as .csv, else as Parquet, whole or not at all; its folder is made.

    Raises:
        AmodalError: If it cannot be written.
    """
    try:
        with whole_file(path) as draft:
            if path.suffix == ".csv":
                pyarrow.csv.write_csv(table, draft)
            else:
                pyarrow.parquet.write_table(table, draft)
    except OSError as error:
        raise AmodalError(f"could not write {path}: {error.strerror or error}") from error
    return path
