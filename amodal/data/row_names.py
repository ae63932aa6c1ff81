"""What people call a record whose key is a hash of a row: its file, or its place in the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from amodal.data.dataset import Dataset
from amodal.data.readers._tabular import Tabular
from amodal.data.remote import Remote
from amodal.modalities import BadValue


def row_names(dataset: Dataset, rows: Sequence[int]) -> list[str]:
    """A name for each of some records.

    Args:
        dataset: The records.
        rows: Their numbers.

    Returns:
        The file of the first field that has one, as the table writes it; else the table and the
        number of the row, from 1. "" for records that have a key of their own, and for rows of a
        selection, whose numbers say little.
    """
    table = dataset.reader
    while table.reader is not None:
        table = table.reader
    if not isinstance(table, Tabular) or table.key:
        return [""] * len(rows)
    whole = table is dataset.reader
    return [_file(dataset, table, i) or (_place(table, i) if whole else "") for i in rows]


def _file(dataset: Dataset, table: Tabular, i: int) -> str:
    for field in dataset.fields:
        try:
            cell = dataset.raw(i, field)
        except BadValue:
            continue
        if isinstance(cell, Remote):
            return cell.name
        if isinstance(cell, Path):
            base = table.base
            inside = isinstance(base, Path) and cell.is_relative_to(base)
            return str(cell.relative_to(cast(Path, base)) if inside else cell)
    return ""


def _place(table: Tabular, i: int) -> str:
    part = int(np.searchsorted(table.starts, i, side="right")) - 1
    row = f"row {i - int(table.starts[part]) + 1:,}"
    return f"{table.paths[part].name}, {row}" if part < len(table.paths) else row
