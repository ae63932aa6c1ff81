"""Decoded values kept in memory: small data is decoded once, large data as far as memory was
granted, then again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from amodal.modalities import BadValue

if TYPE_CHECKING:
    from amodal.data.dataset import Dataset

Entry = np.ndarray | BadValue | None
"""A decoded value, why there is none, or None where the record has none."""

OVERHEAD = 128
"""Bytes that Python needs for an array besides its content, about."""


class Cache:
    """What a dataset has decoded so far, for all its loaders together. Goes empty to processes that
    it is pickled for."""

    def __init__(self):
        self.entries: dict[str, dict[int, Entry]] = {}
        self.bytes = 0

    def get(self, dataset: Dataset, i: int, field: str, limit: int) -> Entry:
        """The value of record i, decoded now if it was not before, and kept while all that is kept
        is below `limit` bytes."""
        known = self.entries.setdefault(field, {})
        if i in known:
            return known[i]
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

    def __reduce__(self):
        return Cache, ()
