"""The index of a server, read again when it has changed, and its records as pages of a list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from amodal.search import Engine, Index, open_index
from amodal.search.filter import Where, allowed
from amodal.search.records import plain
from amodal.serve.limits import Refused


class IndexCache:
    """where: the folder of the index, or the address of one elsewhere, in which is searched but
    whose records are not listed; None for none. fingerprint: of the encoder that made it. To be
    used by one thread at a time."""

    def __init__(self, where: str | Path | None, fingerprint: str):
        self.far = isinstance(where, str) and "://" in where
        self.path = Path(where) if where is not None and not self.far else None
        self.fingerprint = fingerprint
        self.index: Engine | None = open_index(where, fingerprint=fingerprint) if self.far else None
        self._stamp: tuple | None = None
        self._keys: list[str] = []
        self._order = np.zeros(0, dtype=np.int64)
        self._fields: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.index) if self.index is not None else 0

    def fresh(self) -> IndexCache:
        """Itself, up to date with what lies on disk. Raises AmodalError for a damaged index, and
        for one that another encoder made."""
        if self.far:
            return self
        stamp = self._now()
        if stamp != self._stamp:
            self.index = (
                Index.open(self.path, fingerprint=self.fingerprint) if stamp is not None else None
            )
            self._stamp = stamp
            numbers = self.index.number if self.index is not None else {}
            self._keys, self._order = list(numbers), np.fromiter(numbers.values(), np.int64)
            sources = self.index.sources if self.index is not None else ()
            self._fields = {s: np.array(self.index.log.vectors(s)[1]) for s in sources}
        return self

    def _now(self) -> tuple | None:
        """Tells one state of the index from another: its manifest is replaced with each change."""
        try:
            found = (self.path / "manifest.json").stat() if self.path is not None else None
        except OSError:
            found = None
        return None if found is None else (found.st_mtime_ns, found.st_ino, found.st_size)

    def page(
        self, start: int, count: int, where: Where | None = None
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many records there are, and those from `start` on, in the order in which they were
        indexed."""
        self._near()
        if self.index is None:
            return 0, []
        places = np.arange(len(self._order))
        if where is not None:
            places = places[allowed(where, self.index.labels, len(self.index.alive))[self._order]]
        shown = places[start : start + count].tolist()
        return len(places), [self._record(self._keys[i], int(self._order[i])) for i in shown]

    def record(self, key: str) -> dict[str, Any]:
        """One record. Raises KeyError."""
        self._near()
        if self.index is None:
            raise KeyError(key)
        return self._record(key, self.index.number[key])

    def _near(self) -> None:
        if self.far:
            raise Refused(
                409,
                "the records of this index are kept elsewhere and are not read here; search finds them by values",
            )

    def _record(self, key: str, number: int) -> dict[str, Any]:
        """key, labels, and the fields that it has vectors of."""
        labels = {name: plain(values[number]) for name, values in self.index.labels.items()}
        return {
            "key": key,
            "labels": labels,
            "fields": [s for s, rows in self._fields.items() if _has(rows, number)],
        }


def _has(rows: np.ndarray, number: int) -> bool:
    """Whether a number is among rows (n,), which only grow."""
    at = np.searchsorted(rows, number)
    return bool(at < len(rows) and rows[at] == number)
