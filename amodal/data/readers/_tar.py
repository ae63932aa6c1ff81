"""List the files in a tar, and where their content begins.

A tar has no checksum over content, and Python's tarfile stops silently at a damaged header. Here a
listing that does not account for every byte is an error, or says which bytes are lost.

Python's tarfile takes 25 us for each member. Plain files and folders, which is nearly all there is,
are listed here in a tenth of that. A tar with anything else in it, or with anything wrong, is left
to tarfile as a whole.
"""

from __future__ import annotations

import errno
import re
import tarfile
from collections.abc import Iterator

from amodal.core import AmodalError
from amodal.data.remote import AnyPath

BLOCK = tarfile.BLOCKSIZE
ZEROS = bytes(BLOCK)
PADDING = 64 * 2**10
"""A tar ends in zeros: at least one block, at most this many bytes."""

_SHORT, _LONG = rb"(?:[0-7]{7}[ \0]|[0-7]{6} \0)", rb"[0-7]{11}[ \0]"
_NUMBERS = re.compile(
    rb"%b{3}(?P<size>[0-7]{11})[ \0]%b[0-7]{6}(?:\0 |[0-7]\0| \0)(?P<type>[\0]|0|5)"
    % (_SHORT, _LONG)
)
"""Bytes 100 to 157 of a header as tar, Python and others write them: mode, owners, size, time,
checksum; type."""
_DEVICES = re.compile(rb"(?:%b|\0{8}){2}" % _SHORT)

Member = tuple[str, int, int]
"""Name, where its content begins, bytes."""


class Damaged(AmodalError):
    """A tar that cannot be accounted for."""


class Unusual(Exception):
    """A tar that is left to tarfile."""


def members(shard: AnyPath) -> list[Member]:
    """List the files in a tar.

    Args:
        shard: the tar.

    Raises:
        Damaged: with how many files precede the damage.
        AmodalError: it is compressed, or has files with holes.
    """
    total = shard.stat().st_size
    try:
        files, end = _accounted(_plain(shard), total)
    except Unusual:
        files, end = _accounted(_by_tarfile(shard), total)
    with shard.open("rb") as file:
        file.seek(end)
        rest = file.read(PADDING + 1)
    if not BLOCK <= len(rest) <= PADDING or any(rest):
        raise Damaged(
            f"{shard} is damaged at byte {end:,} of {total:,}: {len(files)} files before it can be "
            "read, nothing after. Download it anew, or list the good shards as `records` in "
            "dataset.toml."
        )
    return files


def recovered(shard: AnyPath) -> tuple[list[Member], list[tuple[int, int]]]:
    """List the files before and behind the damage of a tar.

    Behind a header that cannot be read the next one whose checksum is right goes on. A member that
    is a tar itself, and lost its header, is listed as its own members.

    Args:
        shard: the tar.

    Returns:
        The files, and the first byte and the end of each stretch that is lost. There are no files
        where names are in members of their own (long ones, those of PAX), which may be lost.
    """
    total = shard.stat().st_size
    files: list[Member] = []
    lost: list[tuple[int, int]] = []
    position, since = 0, -1
    with shard.open("rb") as file:
        while position < total:
            file.seek(position)
            head = file.read(BLOCK)
            if since < 0 and head == ZEROS and not any(file.read(PADDING)):
                break
            member = _header(head)
            start = position + BLOCK
            stop = start if member is None else start + -(-member.size // BLOCK) * BLOCK
            if member is None or stop > total:
                since, position = (position if since < 0 else since), start
                continue
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
                return [], []
            lost += [(since, position)] if since >= 0 else []
            since, position = -1, stop if member.isfile() else start
            hidden = member.name[member.name.rfind("/") + 1 :].startswith(".")
            if member.isfile() and not hidden:
                files.append((member.name.removeprefix("./"), start, member.size))
    return files, lost + ([(since, total)] if since >= 0 else [])


def _header(head: bytes) -> tarfile.TarInfo | None:
    if head[257:262] != b"ustar" or len(head) < BLOCK:
        return None
    try:
        member = tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return None
    return member if member.size >= 0 else None


Entry = tuple[str, bool, int, int]
"""Name, whether it is a file, where the content begins, bytes."""


def _accounted(entries: Iterator[Entry], total: int) -> tuple[list[Member], int]:
    """The files that are not hidden, and where the last one ends. It stops at the first entry that
    does not follow the one before it."""
    files: list[Member] = []
    end = 0
    for name, is_file, start, size in entries:
        stop = start + -(-size // BLOCK) * BLOCK if is_file else start
        if stop > total or stop < start or start <= end:
            break
        end = stop
        if is_file and not name[name.rfind("/") + 1 :].startswith("."):
            files.append((name.removeprefix("./"), start, size))
    return files, end


def _plain(shard: AnyPath) -> Iterator[Entry]:
    """The entries of a tar of plain files and folders, up to its first block of zeros. Raises
    Unusual."""
    with shard.open("rb") as file:
        position = 0
        while True:
            file.seek(position)
            head = file.read(BLOCK)
            if head == ZEROS:
                return
            numbers = _NUMBERS.match(head, 100) if len(head) == BLOCK else None
            if (
                numbers is None
                or not _DEVICES.match(head, 329)
                or _sum(head) != int(head[148:156].rstrip(b" \0"), 8)
            ):
                raise Unusual
            name, prefix = _text(head[:100]), _text(head[345:500])
            is_file, size = numbers["type"] != b"5", int(numbers["size"], 8)
            position += BLOCK
            if is_file and name.endswith("/"):  # how the first tars wrote a folder
                raise Unusual
            yield f"{prefix}/{name}" if prefix else name, is_file, position, size
            position += -(-size // BLOCK) * BLOCK if is_file else 0


def _sum(head: bytes) -> int:
    """The checksum of a header, in which the checksum's own field counts as spaces."""
    return sum(head.translate(None, b"\0")) - sum(head[148:156]) + 8 * ord(" ")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(tarfile.ENCODING, "surrogateescape")


def _by_tarfile(shard: AnyPath) -> Iterator[Entry]:
    """The entries of any tar, as far as it is intact."""
    first = True
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.issparse():
                    raise AmodalError(
                        f"{shard}: {member.name} is stored with holes. "
                        "Pack it anew without --sparse."
                    )
                first = False
                yield member.name, member.isfile(), member.offset_data, member.size
    except (tarfile.TarError, ValueError, OverflowError, LookupError, EOFError, OSError) as error:
        # of the system's errors only that of a place before the first byte, or beyond the last that
        # there can be, is damage
        if isinstance(error, AmodalError) or getattr(error, "errno", errno.EINVAL) != errno.EINVAL:
            raise
        if first and shard.name.lower().endswith((".gz", ".tgz", ".bz2", ".xz", ".zst")):
            raise AmodalError(
                f"{shard} is compressed: its records cannot be read in any order. "
                "Unpack it to a plain .tar."
            ) from error
