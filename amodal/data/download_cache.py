"""What was fetched from object storage, on disk: at most AMODAL_CACHE_GIB (20 unless set) in the
folder `remote` of the cache ($AMODAL_CACHE, see `amodal.data.fetch.cache`); what was not used for
longest is dropped. Any number of processes share it."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from amodal.core import AmodalError
from amodal.data.fetch import cache

ROOM = 0.8
"""What is dropped goes down to this share of the limit."""
PROCESSES = 8
"""So many share the room that is left; more may go a little beyond the limit."""
_room: dict[str, float] = {}
"""Bytes that this process may put into a folder before it looks again how full it is."""


def limit() -> int:
    """Bytes that may be kept. Raises AmodalError."""
    given = os.environ.get("AMODAL_CACHE_GIB", "20")
    try:
        gib = float(given)
    except ValueError:
        gib = -1.0
    if not 0 <= gib < 2**40:
        raise AmodalError(
            f"AMODAL_CACHE_GIB is {given!r}; it should be a number of GiB, such as 20, or 0 to keep nothing"
        )
    return int(gib * 2**30)


def file(key: str) -> Path:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return Path(f"{_folder(os.environ.get('AMODAL_CACHE'))}/{digest[:2]}/{digest}")


@lru_cache
def _folder(chosen: str | None) -> str:
    return str(cache() / "remote")


def find(key: str, start: int = 0, size: int = -1) -> bytes | None:
    """What is kept under `key`, or `size` bytes of it; its time is now."""
    path = file(key)
    try:
        with path.open("rb") as stored:
            stored.seek(start)
            content = stored.read(size)
        os.utime(path)
        return content
    except OSError:
        return None


def keep(key: str, content: bytes) -> None:
    """Whole or not at all, whoever else writes. A full disk costs a warning, once."""
    most, path = limit(), file(key)
    if len(content) > most:
        return
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        warnings.warn(
            f"what is fetched cannot be kept in {cache() / 'remote'}: {error.strerror or error}",
            stacklevel=2,
        )
    folder = str(cache() / "remote")
    _room[folder] = _room.get(folder, 0) - len(content)
    if _room[folder] < 0:
        _room[folder] = max((most - sweep(most)) / PROCESSES, most / 100)


def sweep(most: int) -> int:
    """Drop what was not used for longest, if there is more than `most` bytes. Returns how many
    there are now."""
    found = []
    for folder, _, names in os.walk(cache() / "remote"):
        for name in names:
            with suppress(OSError):  # another process has dropped it
                about = os.stat(os.path.join(folder, name))
                found.append((about.st_mtime_ns, about.st_size, os.path.join(folder, name)))
    total = sum(size for _, size, _ in found)
    for _, size, name in sorted(found) if total > most else ():
        if total <= most * ROOM:
            break
        with suppress(OSError):
            os.unlink(name)
        total -= size
    return total
