"""Data in object storage: an address that readers use like a path.

    as_path("s3://bucket/photos") / "a.jpg"    # .stat() .glob() .read_bytes() .read(start, stop)

Addresses are those of fsspec: s3://, gs://, az://, https://, memory:// and others. What lies below
a folder is listed once, when it is opened. What is read, whole objects or ranges of them, is cached
on disk under its address, size and etag: an object that has changed is another one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from amodal.core import AmodalError
from amodal.data import download_cache
from amodal.data.store import Stat, Store, Unreachable, UnreadableObject

__all__ = [
    "AnyPath",
    "Remote",
    "Unreachable",
    "UnreadableObject",
    "as_path",
    "local_schema",
    "parallel_map",
    "training_data_of",
]

MAX_REQUESTS = 32
"""Requests at the same time, of each process that reads."""
READ_AHEAD = 4 * 2**20
"""Bytes of one request where a file is read through."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, order=True)
class Remote:
    """An object or a folder in a store, with the methods of a `pathlib.Path` that readers use.

    It can be pickled, with what was listed. Each process makes connections of its own.
    """

    path: str
    store: Store = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.store.address(self.path)

    def __truediv__(self, name: str) -> Remote:
        if name in (".", ""):
            return self
        return Remote(f"{self.path}/{name.removeprefix('./')}", self.store)

    @property
    def parent(self) -> Remote:
        return Remote(self.path.rpartition("/")[0], self.store)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def resolve(self) -> Remote:
        return self

    def exists(self) -> bool:
        return self.store.info(self.path) is not None

    def is_dir(self) -> bool:
        stat = self.store.info(self.path)
        return stat is not None and stat.folder

    def is_file(self) -> bool:
        stat = self.store.info(self.path)
        return stat is not None and not stat.folder

    def stat(self) -> Stat:
        """Size and version.

        Raises:
            UnreadableObject: nothing is here.
        """
        stat = self.store.info(self.path)
        if stat is None:
            raise UnreadableObject(f"{self} is not there")
        return stat

    def names(self) -> list[str]:
        """The paths with / of all files below, relative to this folder."""
        start = self.path + "/"
        return sorted(
            path[len(start) :]
            for path, stat in self.store.list_below(self.path).items()
            if path.startswith(start) and not (stat and stat.folder)
        )

    def iterdir(self) -> list[Remote]:
        firsts = dict.fromkeys(name.partition("/")[0] for name in self.names())
        return [self / name for name in firsts]

    def glob(self, pattern: str) -> list[Remote]:
        from fsspec.utils import glob_translate

        fits = re.compile(glob_translate(pattern))
        return [self / name for name in self.names() if fits.match(name)]

    def rglob(self, pattern: str) -> list[Remote]:
        return self.glob("**/" + pattern)

    def read_bytes(self) -> bytes:
        return self.cached("", lambda: self.fetch(0, None))

    def read_text(self, encoding: str = "utf-8") -> str:
        # every line end becomes \n, as with `Path.read_text`
        return self.read_bytes().decode(encoding).replace("\r\n", "\n").replace("\r", "\n")

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.store.request(self.path, lambda fs, path: fs.pipe_file(path, text.encode(encoding)))
        self.store.forget(self.path)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`."""
        if self.store.ignores_ranges:
            return self.fetch(start, stop)
        return self.cached(f"{start}-{stop}", lambda: self.fetch(start, stop))

    def cached(self, key: str, make: Callable[[], bytes]) -> bytes:
        """What `make` returns, from the disk cache if it is there.

        Args:
            key: together with the object it must determine the bytes.
            make: computes them.
        """
        content = download_cache.get(self._key(key))
        if content is None:
            content = make()
            download_cache.put(self._key(key), content)
        return content

    def local(self) -> Path:
        """A file on this machine with the whole content. It may be dropped once it was opened.

        Raises:
            AmodalError: the object is larger than the cache.
        """
        if (size := len(self.read_bytes())) > download_cache.max_bytes():
            raise AmodalError(
                f"{self} has {size:,} bytes, more than the disk cache may hold: "
                "set AMODAL_CACHE_GIB higher"
            )
        return download_cache.path_of(self._key(""))

    def fetch(self, start: int, stop: int | None) -> bytes:
        """A range as the store has it now, or all of it.

        Args:
            start: the first byte.
            stop: the byte after the last one, None for the whole object.

        Raises:
            UnreadableObject: it is another object than was listed.
        """
        size = self.stat().st_size
        if start == stop:
            return b""
        if stop is None:
            content = self.store.request(self.path, lambda fs, path: bytes(fs.cat_file(path)))
            return self._checked(content, size, size)
        if self.store.ignores_ranges:
            cached = download_cache.get(self._key(""), start, stop - start)
            if cached is not None:
                return cached
        content = self.store.request(
            self.path, lambda fs, path: bytes(fs.cat_file(path, start=start, end=stop))
        )
        if len(content) == size > stop - start:  # the server does not know ranges
            download_cache.put(self._key(""), content)
            self.store.mark_as_ignoring_ranges()
            content = content[start:stop]
        return self._checked(content, min(stop, size) - start, size)

    def _checked(self, content: bytes, expected: int, size: int) -> bytes:
        if size >= 0 and len(content) != expected:
            raise UnreadableObject(
                f"{self} has changed since it was listed: "
                f"{len(content):,} bytes came instead of {expected:,}"
            )
        return content

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """A file to read through, or here and there. What is read is not cached."""
        return io.BufferedReader(_Ranges(self, self.fetch), READ_AHEAD)

    def ranges(self) -> io.RawIOBase:
        """A file of which each part that is read is cached."""
        return _Ranges(self, self.read)

    def _key(self, key: str) -> str:
        stat = self.stat()
        version = stat.st_mtime_ns or self.store.session
        return f"{self.store.root}\n{self.path}\n{stat.st_size}\n{version}\n{key}"


AnyPath = Path | Remote
"""Where data is: on this machine, or in a store."""


class _Ranges(io.RawIOBase):
    """A file object over requests for ranges."""

    def __init__(self, file: Remote, read: Callable[[int, int], bytes]) -> None:
        self.size, self.read_range, self.position = file.stat().st_size, read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        if self.position < 0:
            raise ValueError(f"byte {self.position} of a file")
        return self.position

    def tell(self) -> int:  # the name that io.RawIOBase has
        return self.position

    def readinto(self, buffer: Any) -> int:  # any writable buffer, as io.RawIOBase has it
        stop = min(self.position + len(buffer), self.size)
        content = self.read_range(self.position, stop) if stop > self.position else b""
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def as_path(source: str | AnyPath) -> AnyPath:
    """A path on this machine, or an address as a `Remote`.

    Args:
        source: an address may end in #FILE, the dataset.toml for it on this machine.

    Raises:
        AmodalError: the address has a password in it, or nothing is there.
    """
    if isinstance(source, Remote):
        return source
    if "://" not in str(source):
        return Path(source)
    address, _, schema = str(source).partition("#")
    host = address.partition("://")[2].partition("/")[0]
    password = "@" in host and ":" in host.rpartition("@")[0]
    signature = "?" in address and address.startswith("http")
    if password or signature:
        raise AmodalError(
            f"an address at {host.rpartition('@')[2]} has a password or a signature in it, which "
            "would end up in runs and logs. Give the address without, and the key to the store's "
            "own tools (of S3: ~/.aws)."
        )
    if "::" in address:
        raise AmodalError(f"{address} is a chain of addresses; give the one of the store")
    store = Store(address, str(Path(schema).resolve()) if schema else "")
    root = Remote(store.top, store)
    if not root.exists() or root.is_dir() and not root.names():
        raise AmodalError(
            f"there is nothing at {address}. Is the name of the bucket right, and the path below?"
        )
    if root.suffix == ".toml":
        store.list_below(root.parent.path)
    return root


def training_data_of(config: Mapping[str, Any]) -> str:
    """Where the data of a run was, as its config.json has it.

    Raises:
        AmodalError: it is an address. The run may be somebody else's, and no request is sent to a
            store that the user has not named.
    """
    data = config.get("data", {})
    where = str(data.get("path") or data.get("name"))
    if "://" in where:
        raise AmodalError(
            f"the run learnt from {where}. If data is to be read from there, say so: --data {where}"
        )
    return where


def local_schema(path: AnyPath) -> Path | None:
    """The dataset.toml on this machine that was given with an address."""
    if isinstance(path, Remote) and path.path == path.store.top and path.store.schema:
        return Path(path.store.schema)
    return None


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], concurrent: bool = True
) -> list[Result]:
    """[function(item) for item in items].

    Args:
        function: called with each item.
        items: in order.
        concurrent: call it in many threads, so that the latencies of a store do not add up.
    """
    if not concurrent:
        return [function(item) for item in items]
    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        return list(pool.map(function, items))
