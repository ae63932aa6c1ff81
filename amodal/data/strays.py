"""Files of a folder that are hardly of its records: a table beside pictures, one picture of many
sounds."""

from __future__ import annotations

import json

import numpy as np

from amodal.data.dataset import Dataset
from amodal.data.readers import Files, Folder, Reader, ending_of

TABLES = {".csv", ".tsv"}
FEW_TABLES = 0.2
"""Tables to other files up to which they are taken for tables about these."""
FEW_SERIES = 20
"""Tables below which they are hardly records: with so few, nothing is learnt."""
RARE = 0.02
"""Share of the records up to which a field is taken for a mistake."""


def tables_beside(reader: Reader) -> str:
    """What became of tables that lie beside the files of a folder, and what to do.

    Returns:
        A sentence, "" where there are none.
    """
    if not isinstance(reader, Folder):
        return ""
    files = [reader.names[int(i)] for f in reader.file_index.values() for i in f if i >= 0]
    if len(files) < FEW_SERIES and all(ending_of(name) in TABLES for name in files):
        tables = sorted(files)
        return (
            f"each file is a record, a series of its rows. If the records are the rows, write "
            f"records = {json.dumps(tables[:3])} in dataset.toml, or open {tables[0]} itself"
        )
    has = {column: reader.file_index[column] >= 0 for column in reader.patterns}
    count = sum(has.values(), np.zeros(len(reader.keys), np.int64))
    for column, index in ((c, reader.file_index[c]) for c in has):
        alone = index[has[column] & (count == 1)]
        names = [reader.names[int(i)] for i in alone]
        tables = sorted(n for n in names if ending_of(n) in TABLES and "/" not in n)
        if tables and len(tables) <= FEW_TABLES * (len(reader.keys) - len(tables)):
            shown = ", ".join(tables[:3]) + (f" and {len(tables) - 3} more" if tables[3:] else "")
            return (
                f"each file is a record, and so are {shown}, which are read as {column}. If the "
                f"records are their rows, write records = {json.dumps(tables[:3])} in "
                f"dataset.toml, or open {tables[0]} itself; a column must name the files, relative "
                "to the table"
            )
    return ""


def rare_field(dataset: Dataset, name: str) -> str:
    """A field that hardly any record has, which file it is, and how to leave it out.

    Returns:
        A sentence, "" for any other field.
    """
    rows = np.flatnonzero(dataset.present(name))
    total = len(dataset)
    if not 0 < len(rows) < RARE * total or len(dataset.fields) < 2:
        return ""
    reader, column = dataset.reader, dataset.schema.fields[name].column or name
    first = f"that of {dataset.keys[int(rows[0])]!r}"
    if isinstance(reader, Files) and column in reader.file_index:
        first = reader.names[int(reader.file_index[column][rows[0]])]
    files = first if len(rows) == 1 else f"{first} and {len(rows) - 1} more"
    return (
        f"only {len(rows):,} of {total:,} records {'has' if len(rows) == 1 else 'have'} the field "
        f"{name!r} ({files}): to leave it out, remove [fields.{name}] from dataset.toml"
    )
