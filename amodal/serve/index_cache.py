"""The index of a server, opened anew when it has changed on disk, and its records in pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from amodal.search import Engine, Index, open_index
from amodal.search.filter import Where, allowed
from amodal.search.records import plain
from amodal.serve.limits import Refused


class IndexCache:
    """An open index that follows the files on disk. To be used by one thread at a time.

    Args:
        location: The folder of the index, None for none; or the address of a remote one, which is
            searched but whose records are not listed.
        fingerprint: Of the encoder that made it.
    """

    def __init__(self, location: str | Path | None, fingerprint: str):
        self.remote = isinstance(location, str) and "://" in location
        self.path = Path(location) if location is not None and not self.remote else None
        self.fingerprint = fingerprint
        self.index: Engine | None = None
        if location is not None and self.remote:
            self.index = open_index(location, fingerprint=fingerprint)
        self._stamp: tuple[int, int, int] | None = None
        self._keys: list[str] = []
        self._order = np.zeros(0, dtype=np.int64)
        self._fields: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.index) if self.index is not None else 0

    def refreshed(self) -> IndexCache:
        """Itself, up to date with the disk. Raises AmodalError for a damaged index, and for one
        that another encoder made."""
        if self.remote:
            return self
        # before the index is read: a change in between is then seen by the next call
        stamp = self._file_stamp()
        if stamp != self._stamp:
            index = None
            if stamp is not None and self.path is not None:
                index = Index.open(self.path, fingerprint=self.fingerprint)
            self.index, self._stamp = index, stamp
            numbers = index.number if index is not None else {}
            self._keys, self._order = list(numbers), np.fromiter(numbers.values(), np.int64)
            self._fields = {}
            if index is not None:
                self._fields = {s: np.array(index.log.vectors(s)[1]) for s in index.sources}
        return self

    def _file_stamp(self) -> tuple[int, int, int] | None:
        """Differs between states of the index, because each change replaces its manifest."""
        try:
            stat = (self.path / "manifest.json").stat() if self.path is not None else None
        except OSError:
            stat = None
        return None if stat is None else (stat.st_mtime_ns, stat.st_ino, stat.st_size)

    def page(
        self, start: int, count: int, where: Where | None = None
    ) -> tuple[int, list[dict[str, Any]]]:
        """List records in the order in which they were indexed.

        Args:
            start: The first of those that pass the filter.
            count: How many.
            where: A filter.

        Returns:
            How many records pass the filter, and the page of them.
        """
        if (index := self._local()) is None:
            return 0, []
        rows = np.arange(len(self._order))
        if where is not None:
            rows = rows[allowed(where, index.labels, len(index.alive))[self._order]]
        shown = rows[start : start + count].tolist()
        records = [self._record(index, self._keys[i], int(self._order[i])) for i in shown]
        return len(rows), records

    def record(self, key: str) -> dict[str, Any]:
        """One record. Raises KeyError."""
        if (index := self._local()) is None:
            raise KeyError(key)
        return self._record(index, key, index.number[key])

    def _local(self) -> Index | None:
        if self.index is not None and not isinstance(self.index, Index):
            raise Refused(
                409,
                "the records of this index are stored elsewhere and are not read here; search "
                "finds them by values",
            )
        return self.index

    def _record(self, index: Index, key: str, number: int) -> dict[str, Any]:
        labels = {name: plain(values[number]) for name, values in index.labels.items()}
        fields = [s for s, rows in self._fields.items() if _has(rows, number)]
        return {"key": key, "labels": labels, "fields": fields}


def _has(rows: np.ndarray, number: int) -> bool:
    """Whether a number is among ascending rows (n,)."""
    i = np.searchsorted(rows, number)
    return bool(i < len(rows) and rows[i] == number)
