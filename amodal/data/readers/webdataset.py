"""WebDataset tars, read in place: files of the shards that share a stem are one record.

An index of where each member begins (`amodal.data.readers._tar`) lets records be read in any
order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from amodal.data.readers._files import FilePattern, Files
from amodal.data.readers._tar import members
from amodal.data.readers.base import stamp_files
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
        listed = parallel_map(_list_members, self.shards, self.is_remote)
        index = [(name, n, *span) for n, files in enumerate(listed) for name, *span in files]
        self.spans = np.array([span for _, *span in index], dtype=np.int64).reshape(-1, 3)
        what = str(self.shards[0]) + (
            f" and {len(shards) - 1} other shards" if len(shards) > 1 else ""
        )
        super().__init__([name for name, *_ in index], columns, kinds, what)

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


def _list_members(shard: AnyPath) -> Sequence[Sequence[Any]]:
    """`members`. That of a shard in a store, which is read through for it, is cached on disk."""
    if not isinstance(shard, Remote):
        return members(shard)
    text = shard.cached("members", lambda: json.dumps(members(shard)).encode())
    return list(json.loads(text))
