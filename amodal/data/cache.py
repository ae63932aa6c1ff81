"""An in-memory cache of decoded values.

Small data is decoded once. Of large data as much is cached as the limit allows; the rest is decoded
each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from amodal.modalities import BadValue

if TYPE_CHECKING:
    from amodal.data.dataset import Dataset

Entry = np.ndarray | BadValue | None
"""A decoded value, the reason why it cannot be read, or None where the record has none."""

MAX_BYTES = 512 * 2**20
"""Of the decoded values of a dataset, unless a loader is given another limit."""
OVERHEAD = 128
"""Bytes that Python needs for an array besides its content, about."""


class Cache:
    """The decoded values of a dataset, shared by all its loaders. It is pickled empty."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[int, Entry]] = {}
        self.bytes = 0

    def get(self, dataset: Dataset, i: int, field: str, limit: int) -> Entry:
        """The value of a record, decoded now unless it is in the cache.

        Args:
            dataset: that has the record.
            i: number of the record.
            field: of the value.
            limit: bytes up to which decoded values are added to the cache.

        Returns:
            The value, a BadValue if it cannot be read, None if the record has none.
        """
        known = self.entries.setdefault(field, {})
        if i in known:
            return known[i]
        entry: Entry
        try:
            entry = dataset.value(i, field)
        except BadValue as error:
            # Only the text: a traceback would hold on to the bytes that could not be read.
            entry = BadValue(str(error))
        size = OVERHEAD + (entry.nbytes if isinstance(entry, np.ndarray) else 0)
        if self.bytes + size <= limit:
            known[i] = entry
            self.bytes += size
        return entry

    def __reduce__(self) -> tuple[type[Cache], tuple[()]]:
        return Cache, ()
