"""The disk cache of what was downloaded from object storage.

It lies in the folder `remote` of the cache ($AMODAL_CACHE, see `amodal.data.fetch.cache`) and holds
at most AMODAL_CACHE_GIB (20 unless set). The least recently used entries are dropped. Any number of
processes share it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from amodal.core import AmodalError, AmodalWarning
from amodal.data.fetch import cache

EVICT_TO = 0.8
"""Eviction goes down to this share of the limit."""
PROCESSES = 8
"""How many processes the free room is divided among; more may go a little beyond the limit."""
_room: dict[str, float] = {}
"""Folder -> bytes that this process may still write before it measures the folder again."""


def max_bytes() -> int:
    """The size limit of the cache, in bytes.

    Raises:
        AmodalError: AMODAL_CACHE_GIB is no number of GiB.
    """
    text = os.environ.get("AMODAL_CACHE_GIB", "20")
    try:
        gib = float(text)
    except ValueError:
        gib = -1.0
    if not 0 <= gib < 2**40:
        raise AmodalError(
            f"AMODAL_CACHE_GIB is {text!r}; it should be a number of GiB, such as 20, "
            "or 0 to cache nothing"
        )
    return int(gib * 2**30)


def path_of(key: str) -> Path:
    """The file of an entry, whether it is in the cache or not."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return Path(f"{_folder(os.environ.get('AMODAL_CACHE'))}/{digest[:2]}/{digest}")


@lru_cache
def _folder(cache_variable: str | None) -> str:
    # The variable is only the key of the lru_cache: a process may change it, as tests do.
    return str(cache() / "remote")


def get(key: str, start: int = 0, size: int = -1) -> bytes | None:
    """Read an entry and mark it as used now.

    Args:
        key: of the entry.
        start: the first byte to read.
        size: how many bytes, -1 for all.

    Returns:
        The content, None if the cache does not have it.
    """
    path = path_of(key)
    try:
        with path.open("rb") as stored:
            stored.seek(start)
            content = stored.read(size)
        # by hand, since many disks are mounted without access times; eviction goes by it
        os.utime(path)
        return content
    except OSError:
        return None


def put(key: str, content: bytes) -> None:
    """Write an entry, whole or not at all. A full disk costs one warning.

    Args:
        key: of the entry.
        content: of the entry; dropped if it is larger than the cache.
    """
    limit, path = max_bytes(), path_of(key)
    if len(content) > limit:
        return
    # A name of its own for each writer, renamed when complete: readers never see half an entry.
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        warnings.warn(
            f"downloads cannot be cached in {cache() / 'remote'}: {error.strerror or error}",
            AmodalWarning,
            stacklevel=2,
        )
    folder = str(cache() / "remote")
    _room[folder] = _room.get(folder, 0) - len(content)
    # measured only when this process has used up its part of the room: it walks the whole folder
    if _room[folder] < 0:
        _room[folder] = max((limit - evict(limit)) / PROCESSES, limit / 100)


def evict(limit: int) -> int:
    """Drop the least recently used entries, if there are more than `limit` bytes.

    Returns:
        The bytes in the cache afterwards.
    """
    entries = []
    for folder, _, names in os.walk(cache() / "remote"):
        for name in names:
            with suppress(OSError):  # another process has dropped it
                stat = os.stat(os.path.join(folder, name))
                entries.append((stat.st_mtime_ns, stat.st_size, os.path.join(folder, name)))
    total = sum(size for _, size, _ in entries)
    for _, size, name in sorted(entries) if total > limit else ():
        if total <= limit * EVICT_TO:
            break
        with suppress(OSError):
            os.unlink(name)
        total -= size
    return total
