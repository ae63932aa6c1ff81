"""WebDataset tars, read in place: files of the shards that share a stem are one record.

Our own index holds where each member begins, so records are read in any order
(`amodal.data.readers._tar`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amodal.data.readers._files import Files, Where
from amodal.data.readers._tar import members
from amodal.data.readers.base import stamp_files
from amodal.data.remote import Remote, place, together


class WebDataset(Files):
    """shards: the tars, in order. Cells are bytes."""

    def __init__(
        self, shards: Sequence[Path], columns: dict[str, Where] | None, kinds: dict[str, str]
    ):
        self.shards = [place(s) for s in shards]
        listed = together(_listed, self.shards, self.far)
        index = [(name, n, *at) for n, inside in enumerate(listed) for name, *at in inside]
        self.places = np.array([at for _, *at in index], dtype=np.int64).reshape(-1, 3)
        what = str(self.shards[0]) + (
            f" and {len(shards) - 1} other shards" if len(shards) > 1 else ""
        )
        super().__init__([name for name, *_ in index], columns, kinds, what)

    @property
    def far(self) -> bool:
        return isinstance(self.shards[0], Remote)

    def fetch(self, file: int) -> bytes:
        shard, start, size = self.places[file].tolist()
        if self.far:
            return self.shards[shard].read(start, start + size)
        # Opened for each read: nothing to share with, or to lose in, a forked worker; it costs 10
        # us.
        with self.shards[shard].open("rb") as tar:
            tar.seek(start)
            return tar.read(size)

    def stamp(self) -> str:
        return stamp_files(self.shards)


def _listed(shard: Path | Remote) -> list:
    """`members`; of a shard in a store, which is read through for it, kept on disk."""
    if not isinstance(shard, Remote):
        return members(shard)
    return json.loads(shard.kept("members", lambda: json.dumps(members(shard)).encode()))
