"""WebDataset tars, read in place: files of the shards that share a stem are one record.

Our own index holds where each member begins, so records are read in any order. Tar has no checksum over content, and
Python's reader stops without a word at a damaged header: here an index that does not account for every byte of a shard
is an error.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from amodal.core import AmodalError
from amodal.data.readers._base import stamp_files
from amodal.data.readers._files import Files, Where
from amodal.data.remote import Remote, place, together

BLOCK = tarfile.BLOCKSIZE
PADDING = 64 * 2**10
"""A tar ends in zeros: one block at least, at most the padding of a large record size."""


class WebDataset(Files):
    """shards: the tars, in order. Cells are bytes."""

    def __init__(self, shards: Sequence[Path], columns: dict[str, Where] | None, kinds: dict[str, str]):
        self.shards = [place(s) for s in shards]
        listed = together(_listed, self.shards, self.far)
        index = [(name, n, *at) for n, members in enumerate(listed) for name, *at in members]
        self.places = np.array([at for _, *at in index], dtype=np.int64).reshape(-1, 3)
        what = str(self.shards[0]) + (f" and {len(shards) - 1} other shards" if len(shards) > 1 else "")
        super().__init__([name for name, *_ in index], columns, kinds, what)

    @property
    def far(self) -> bool:
        return isinstance(self.shards[0], Remote)

    def fetch(self, file: int) -> bytes:
        shard, start, size = self.places[file].tolist()
        if self.far:
            return self.shards[shard].read(start, start + size)
        # Opened for each read: nothing to share with, or to lose in, a forked worker; it costs 10 us.
        with self.shards[shard].open("rb") as tar:
            tar.seek(start)
            return tar.read(size)

    def stamp(self) -> str:
        return stamp_files(self.shards)


def _listed(shard: Path | Remote) -> list:
    """`_members`; of a shard in a store, which is read through for it, kept on disk."""
    if not isinstance(shard, Remote):
        return _members(shard)
    return json.loads(shard.kept("members", lambda: json.dumps(_members(shard)).encode()))


def _members(shard: Path | Remote) -> list[tuple[str, int, int]]:
    """(name, where its content begins, bytes) of each file in a tar; an error naming what survives if the tar is
    damaged."""
    total, end, members = shard.stat().st_size, 0, []
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.issparse():
                    raise AmodalError(f"{shard}: {member.name} is stored with holes. Pack it again without --sparse.")
                stop = member.offset_data + -(-member.size // BLOCK) * BLOCK if member.isfile() else member.offset_data
                if stop > total or stop < member.offset_data or member.offset_data <= end:
                    break
                end = stop
                if member.isfile() and not PurePosixPath(member.name).name.startswith("."):
                    members.append((member.name.removeprefix("./"), member.offset_data, member.size))
    except (tarfile.TarError, ValueError, OverflowError, LookupError, EOFError) as error:
        if isinstance(error, AmodalError):
            raise
        if not members and shard.name.lower().endswith((".gz", ".tgz", ".bz2", ".xz", ".zst")):
            raise AmodalError(
                f"{shard} is compressed: its records cannot be read in any order. Unpack it to a plain .tar."
            ) from error
    with shard.open("rb") as file:
        file.seek(end)
        rest = file.read(PADDING + 1)
    if not BLOCK <= len(rest) <= PADDING or any(rest):
        raise AmodalError(
            f"{shard} is damaged at byte {end:,} of {total:,}: {len(members)} files before it can be read, "
            "nothing after. Fetch it again, or list the good shards as `records` in dataset.toml."
        )
    return members
