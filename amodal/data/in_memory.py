"""What people have in memory, as rows that can be read."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from torch.utils.data import DataLoader, IterableDataset

from amodal.core import AmodalError
from amodal.data.readers import Reader
from amodal.data.readers._parts import Held, Lists, TablePart
from amodal.data.readers.as_numpy import as_numpy, is_array, is_sparse
from amodal.data.readers.in_memory import Items, Rows, cell_of, lists

MakeReader = Callable[[str], Reader]
"""Name of the key column, "" for none -> reader."""
SPLIT = "split"


def rows_of(source: Any, limit: int | None = None) -> MakeReader | None:
    """How to read something in memory that has rows.

    Args:
        source: a data frame (pandas, polars), an Arrow table or whatever has `to_arrow` (a table of
            LanceDB, a relation of DuckDB), a dataset of Hugging Face or a dict of such, a list of
            dicts, a dataset of torch, or anything that gives records one by one (a streaming
            dataset, a pipeline of WebDataset, a generator).
        limit: records that are read at most, of what gives them one by one.

    Returns:
        None for anything else.

    Raises:
        AmodalError: there are no rows, or a list holds something else.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise AmodalError(f"limit is at least 1, not {limit!r}")
    if _is_huggingface(source):
        return _huggingface({"": source})
    if isinstance(source, Mapping):
        if source and all(_is_huggingface(one) for one in source.values()):
            return _huggingface(source)
        if source and all(_is_huggingface(one, "IterableDataset") for one in source.values()):
            return _streams(source, limit)
        return None
    _check_records(source)
    if isinstance(source, io.IOBase):
        name = getattr(source, "name", "")
        raise AmodalError(f"an open file is no data; give its path{f': {name!r}' if name else ''}")
    if (table := _arrow(source)) is not None:
        _check_names(table.column_names)
        return _reader([Held(table)], lists_as_arrays=True)
    if hasattr(source, "to_dict") and hasattr(source, "index") and hasattr(source, "tolist"):
        return _reader([lists(source.tolist(), shown=False)])  # a Series: values of one field
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        return _reader([_frame(source)])
    if isinstance(source, (list, tuple)):
        return _reader([records_of(source)])
    if is_array(source):
        if not source.ndim:
            raise AmodalError("a single number is no data: give an array of records")
        return _reader([lists(as_numpy(source), shown=False)])
    kind = type(source)
    indexed = hasattr(kind, "__getitem__") and hasattr(kind, "__len__")
    if indexed and not isinstance(source, IterableDataset):
        return _reader([Items(source)])
    if hasattr(kind, "__iter__"):
        return _reader([lists(source, limit=limit)])
    return None


def _reader(
    parts: Sequence[TablePart],
    extra_columns: Mapping[str, list[Any]] | None = None,
    *,
    lists_as_arrays: bool = False,
) -> MakeReader:
    return lambda key: Rows(parts, key, extra_columns, lists_as_arrays)


def _is_huggingface(source: Any, name: str = "Dataset") -> bool:
    """Whether it is of a class of `datasets`, which is not imported for that."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(source, getattr(library, name))


def _streams(splits: Mapping[str, Any], limit: int | None) -> MakeReader:
    """Streaming datasets one after the other, up to `limit` records of each."""
    parts = [lists(one, limit=limit) for one in splits.values()]
    return _reader(parts, {SPLIT: _split_names(parts, splits)})


def _check_records(source: Any) -> None:
    """Raise AmodalError for what would pass for records and holds none."""
    if isinstance(source, DataLoader):
        raise AmodalError("a DataLoader gives batches; give the dataset in it: loader.dataset")
    if hasattr(source, "collect") and hasattr(source, "collect_schema"):
        raise AmodalError("a lazy frame of polars has no rows yet; give frame.collect()")
    if isinstance(source, (set, frozenset)):
        raise AmodalError(
            "a set has no order, so its records would have none; give a list, such as "
            "sorted(values)"
        )
    if is_sparse(source):
        raise AmodalError("a sparse matrix of scipy is not read; give matrix.toarray()")


def _huggingface(splits: Mapping[str, Any]) -> MakeReader:
    """Datasets of Hugging Face one after the other, pictures and sound as they are stored."""
    parts = [Held(_with_names(one)) for one in splits.values()]
    return _reader(parts, {SPLIT: _split_names(parts, splits)} if any(splits) else None)


def _split_names(parts: Sequence[Held | Lists], splits: Iterable[Any]) -> list[str]:
    """The name of the split of each record."""
    return [str(name) for part, name in zip(parts, splits) for _ in range(part.rows)]


def _with_names(one: Any) -> pa.Table:
    """A dataset of Hugging Face as a table, with the names of classes for their numbers: those of
    another split may be in another order."""
    table: pa.Table = one.with_format("arrow")[:]
    for column, feature in one.features.items():
        if (names := getattr(feature, "names", None)) is not None:
            numbers = table.column(column).to_pylist()
            known = [
                None if n is None or not 0 <= n < len(names) else str(names[n]) for n in numbers
            ]
            place = table.column_names.index(column)
            table = table.set_column(place, column, pa.array(known, pa.string()))
    return table


def _arrow(source: Any) -> pa.Table | None:
    """An Arrow table, None for what cannot be one."""
    if isinstance(source, (pa.Array, pa.ChunkedArray)):
        return pa.table({"x": source})
    for name in ("to_arrow", "to_arrow_table", "to_table"):  # the last: a dataset of pyarrow
        if callable(make := getattr(source, name, None)):
            source = make()
            break
    if isinstance(source, pa.RecordBatchReader):
        return source.read_all()
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    return source if isinstance(source, pa.Table) else None


def _check_names(names: Sequence[str]) -> None:
    """Raise AmodalError where two columns have one name."""
    for name, times in Counter(names).items():
        if times > 1:
            raise AmodalError(f"more than one column is called {name!r}; rename one of them")


def _frame(frame: Any) -> Lists:
    """A data frame of pandas. An index with a name is a column too."""
    named = [name for name in frame.index.names if name is not None]
    _check_names([*map(str, named), *map(str, frame.columns)])
    frame = frame.reset_index(level=named) if named else frame
    columns = {}
    for name in frame.columns:
        missing = frame[name].isna().tolist()
        cells = [None if gone else cell_of(c) for c, gone in zip(frame[name].tolist(), missing)]
        columns[str(name)] = cells
    return Lists(columns, len(frame))


def records_of(rows: Sequence[Any]) -> Lists:
    """Records as columns, None where a record lacks a value."""
    other = [type(row).__name__ for row in rows if not isinstance(row, Mapping)]
    if not rows or other:
        got = f"a list of {other[0]}" if other else "an empty list"
        raise AmodalError(
            f"a list is taken as records, and must hold dicts name -> value; got {got}. For values "
            'of one field give its name too: {"photo": values}'
        )
    return lists(rows, shown=False)
