"""Values in memory: a dict of lists, numpy arrays or tensors, all of one length.

A missing value is None or, among numbers, NaN.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np

from amodal.core import AmodalError
from amodal.data.readers.as_numpy import as_numpy, is_array, is_sparse
from amodal.data.readers.base import Cell, Reader, unique_keys
from amodal.errors import described
from amodal.modalities.shared.cells import plain


class Arrays(Reader):
    """Records in memory.

    Args:
        columns: name -> N values.
        key: the column that names the records, "" to number them.

    Raises:
        AmodalError: there are no columns, or they differ in length.
    """

    def __init__(self, columns: Mapping[str, Sequence[Cell]], key: str = "") -> None:
        self.data = {name: _plain(values, name) for name, values in columns.items()}
        lengths = {name: len(values) for name, values in self.data.items()}
        if not lengths:
            raise AmodalError("an empty dict is no data: give at least one name -> values")
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name}: {n}" for name, n in lengths.items())
            raise AmodalError(
                f"all columns must have one length, a value or None for each record; got {listed}"
            )
        self.columns = tuple(self.data)
        self.ignored = Counter()
        n = next(iter(lengths.values()))
        self.keys = [str(i) for i in range(n)]
        if key:
            self.keys = unique_keys(self.cells(self.check(key)), key, "arrays")

    def get(self, i: int, column: str) -> Cell:
        value = self.data[self.check(column)][i]
        value = plain(value)
        # NaN, and pandas' NaT, which calls itself a date
        return None if isinstance(value, (float, date)) and value != value else value

    def stamp(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name, values in self.data.items():
            digest.update(name.encode())
            if isinstance(values, np.ndarray) and values.dtype != object:
                digest.update(np.ascontiguousarray(values).tobytes())
            else:
                for value in values:
                    digest.update(
                        value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
                    )
        return digest.hexdigest()


def _plain(values: Any, name: str) -> np.ndarray | list[Cell]:
    """A column as an array or a list. Tensors become arrays, also one by one in a list. `values`
    may be of any type: a Series of pandas, for one."""
    if is_sparse(values):
        raise AmodalError(f"column {name!r} is a sparse matrix of scipy; give its .toarray()")
    if is_array(values):
        array = as_numpy(values, name)
        if not array.ndim:
            raise AmodalError(f"column {name!r} is a single value; give one for each record")
        return array
    if isinstance(values, Mapping):  # such as pandas' to_dict()
        raise AmodalError(
            f"column {name!r} is {described(values)}, and a column is a list with a value for each "
            "record, as of frame.to_dict('list'); records that are dicts are a list of dicts"
        )
    if isinstance(values, (str, bytes)) or not hasattr(values, "__getitem__"):
        raise AmodalError(
            f"column {name!r} must be a list, array or tensor with a value for each record, "
            f"not {type(values).__name__}"
        )
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    return [as_numpy(v, name) if is_array(v) else v for v in values]
