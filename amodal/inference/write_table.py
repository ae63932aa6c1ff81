"""Tables of predictions as files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from amodal.core import AmodalError


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
        AmodalError: For another kind of file.
    """
    path = check_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        from pyarrow.csv import write_csv

        write_csv(table, path)
    else:
        from pyarrow.parquet import write_table as write_parquet

        write_parquet(table, path)
    return path
