"""WebDataset tars, read in place: files of the shards that share a stem are one record.

An index of where each member begins (`amodal.data.readers._tar`) lets records be read in any
order. Of a damaged shard the rest is read; each lost stretch is a record of its own, named by its
place, that cannot be read and ends in quarantine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amodal.core import AmodalError
from amodal.data.readers._files import FilePattern, Files
from amodal.data.readers._tar import Damaged, members, recovered
from amodal.data.readers.base import Cell, stamp_files
from amodal.data.remote import AnyPath, Remote, as_path, parallel_map


class WebDataset(Files):
    """The files in tars, as bytes.

    Args:
        shards: the tars, in order.
        columns: name -> its files; None to guess them from `kinds`.
        kinds: ending -> modality.

    Attributes:
        spans: (files, 3) int64: the number of the tar, the first byte, bytes.
    """

    def __init__(
        self,
        shards: Sequence[AnyPath],
        columns: Mapping[str, FilePattern] | None,
        kinds: Mapping[str, str],
    ) -> None:
        self.shards = [as_path(shard) for shard in shards]
        found = parallel_map(_list_members, self.shards, self.is_remote)
        listed = [files for files, _ in found]
        index = [(name, n, *span) for n, files in enumerate(listed) for name, *span in files]
        self.spans = np.array([span for _, *span in index], dtype=np.int64).reshape(-1, 3)
        what = str(self.shards[0]) + (
            f" and {len(shards) - 1} other shards" if len(shards) > 1 else ""
        )
        super().__init__([name for name, *_ in index], columns, kinds, what)
        self._add_lost({s: lost for s, (_, lost) in zip(self.shards, found) if lost})

    def _add_lost(self, lost: Mapping[AnyPath, Sequence[tuple[int, int]]]) -> None:
        """Records for what damage has taken: which, nobody knows."""
        reasons = {
            f"{shard.name}:{start}": f"{shard} is damaged: what is between the bytes {start:,} and "
            f"{end:,} of {shard.stat().st_size:,} is lost; the files before and behind it are read"
            for shard, stretches in lost.items()
            for start, end in stretches
        }
        if not reasons:
            return
        self.damaged = dict(enumerate(reasons.values(), len(self.keys)))
        self.keys = [*self.keys, *reasons]
        none = np.full(len(reasons), -1, dtype=np.int64)
        self.file_index = {c: np.append(files, none) for c, files in self.file_index.items()}
        folders = {c: [*names, *[None] * len(none)] for c, names in self.folder_columns.items()}
        self.folder_columns = folders
        self.ignored += Counter({"damaged stretches of shards": len(reasons)})

    def get(self, i: int, column: str) -> Cell:
        if i in self.damaged:
            raise AmodalError(self.damaged[i])
        return super().get(i, column)

    def present(self, column: str) -> np.ndarray:
        have = super().present(column)
        have[list(self.damaged)] = True  # whoever reads it learns why it cannot be read
        return have

    @property
    def is_remote(self) -> bool:
        return isinstance(self.shards[0], Remote)

    def fetch(self, file: int) -> bytes:
        number, start, size = self.spans[file].tolist()
        shard = self.shards[number]
        if isinstance(shard, Remote):
            return shard.read(start, start + size)
        # Opened for each read, which costs 10 us: a forked worker shares no file with others.
        with shard.open("rb") as tar:
            tar.seek(start)
            content: bytes = tar.read(size)
            return content

    def stamp(self) -> str:
        return stamp_files(self.shards)


Listing = tuple[Sequence[Sequence[Any]], Sequence[tuple[int, int]]]
"""The members of a shard, and the stretches of it that are lost."""


def _list_members(shard: AnyPath) -> Listing:
    """`members`, or what is left of a damaged shard on disk. The members of a shard in a store,
    which is read through for it, are cached."""
    if isinstance(shard, Remote):
        text = shard.cached("members", lambda: json.dumps(members(shard)).encode())
        return list(json.loads(text)), []
    try:
        return members(shard), []
    except Damaged:
        files, lost = recovered(shard)
        if not files or not lost:
            raise
        return files, lost
