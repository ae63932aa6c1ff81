"""Data in object storage: an address (s3://, gs://, az://, https://, memory://, whatever fsspec
knows) as readers use a path.

    place("s3://bucket/photos") / "a.jpg"      # .stat() .glob() .read_bytes() .read(start, stop),
                                               as of a Path

What lies below a folder is listed once, when it is opened. What is read, whole objects or ranges of
them, is kept on disk (`kept`) under its address, size and etag, so that an object that has changed
is another one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from amodal.core import AmodalError
from amodal.data import download_cache as kept
from amodal.data.store import Lost, Stat, Store, Unreachable

__all__ = ["Lost", "Remote", "Unreachable", "described_by", "learnt_from", "place", "together"]

AT_ONCE = 32
"""Requests at the same time, of each process that reads."""
AHEAD = 4 * 2**20
"""Bytes that are asked for at once where a file is read through."""


@dataclass(frozen=True, order=True)
class Remote:
    """A place in a store. Pickled with what was listed; connections are made anew in each process."""

    path: str
    store: Store = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.store.address(self.path)

    def __truediv__(self, name: str) -> Remote:
        return (
            self
            if name in (".", "")
            else Remote(f"{self.path}/{name.removeprefix('./')}", self.store)
        )

    @property
    def parent(self) -> Remote:
        return Remote(self.path.rpartition("/")[0], self.store)

    name = property(lambda self: self.path.rpartition("/")[2])
    stem = property(lambda self: PurePosixPath(self.name).stem)
    suffix = property(lambda self: PurePosixPath(self.name).suffix)

    def resolve(self) -> Remote:
        return self

    def exists(self) -> bool:
        return self.store.info(self.path) is not None

    def is_dir(self) -> bool:
        return self.exists() and self.store.info(self.path).folder

    def is_file(self) -> bool:
        return self.exists() and not self.store.info(self.path).folder

    def stat(self) -> Stat:
        if (found := self.store.info(self.path)) is None:
            raise Lost(f"{self} is not there")
        return found

    def names(self) -> list[str]:
        """The paths with / of all files below."""
        start = self.path + "/"
        return sorted(
            p[len(start) :]
            for p, s in self.store.below(self.path).items()
            if p.startswith(start) and not s.folder
        )

    def iterdir(self) -> list[Remote]:
        return [
            self / name for name in dict.fromkeys(name.partition("/")[0] for name in self.names())
        ]

    def glob(self, pattern: str) -> list[Remote]:
        from fsspec.utils import glob_translate

        fits = re.compile(glob_translate(pattern))
        return [self / name for name in self.names() if fits.match(name)]

    def rglob(self, pattern: str) -> list[Remote]:
        return self.glob("**/" + pattern)

    def read_bytes(self) -> bytes:
        return self.kept("", lambda: self.fetch(0, None))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding).replace("\r\n", "\n").replace("\r", "\n")

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.store.ask(self.path, lambda fs, path: fs.pipe_file(path, text.encode(encoding)))
        self.store.known.pop(self.path, None)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`."""
        return (self.fetch if self.store.whole else self._kept_range)(start, stop)

    def _kept_range(self, start: int, stop: int) -> bytes:
        return self.kept(f"{start}-{stop}", lambda: self.fetch(start, stop))

    def kept(self, what: str, make: Callable[[], bytes]) -> bytes:
        """What `make` gives, from disk if it is there: for bytes that follow from the object and
        from `what`."""
        if (content := kept.find(self._key(what))) is None:
            kept.keep(self._key(what), content := make())
        return content

    def local(self) -> Path:
        """A file on this machine with the whole content, which may be dropped as soon as it has
        been opened."""
        if (size := len(self.read_bytes())) > kept.limit():
            raise AmodalError(
                f"{self} has {size:,} bytes, more than may be kept on disk: set AMODAL_CACHE_GIB higher"
            )
        return kept.file(self._key(""))

    def fetch(self, start: int, stop: int | None) -> bytes:
        """A range as the store has it now, or all of it. Raises Lost where it is another object
        than was listed."""
        size, whole = self.stat().st_size, stop is None
        if start == stop:
            return b""
        if (
            not whole
            and self.store.whole
            and (content := kept.find(self._key(""), start, stop - start)) is not None
        ):
            return content
        content = self.store.ask(
            self.path,
            lambda fs, path: fs.cat_file(path, **({} if whole else {"start": start, "end": stop})),
        )
        if not whole and len(content) == size > stop - start:  # a server that knows no ranges
            kept.keep(self._key(""), content)
            self.store.whole, content = True, content[start:stop]
        wanted = size if whole else min(stop, size) - start
        if size >= 0 and len(content) != wanted:
            raise Lost(
                f"{self} has changed since it was listed: {len(content):,} bytes came instead of {wanted:,}"
            )
        return content

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """To be read through or here and there; what is read is not kept."""
        return io.BufferedReader(_Ranges(self, self.fetch), AHEAD)

    def ranges(self) -> io.RawIOBase:
        """A file of which each part that is read is kept."""
        return _Ranges(self, self.read)

    def _key(self, what: str) -> str:
        stat = self.stat()
        return f"{self.store.root}\n{self.path}\n{stat.st_size}\n{stat.st_mtime_ns or self.store.opened}\n{what}"


class _Ranges(io.RawIOBase):
    def __init__(self, place: Remote, read: Callable[[int, int], bytes]):
        self.size, self.read_range, self.at = place.stat().st_size, read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        if self.at < 0:
            raise ValueError(f"byte {self.at} of a file")
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer) -> int:
        stop = min(self.at + len(buffer), self.size)
        content = self.read_range(self.at, stop) if stop > self.at else b""
        buffer[: len(content)] = content
        self.at += len(content)
        return len(content)


def place(source) -> Path | Remote:
    """Where `source` is: a path, or an address, which may end in #FILE, the dataset.toml for it on
    this machine. Raises AmodalError for an address with a password in it, and where nothing is."""
    if isinstance(source, Remote):
        return source
    if "://" not in str(source):
        return Path(source)
    address, _, schema = str(source).partition("#")
    host = address.partition("://")[2].partition("/")[0]
    if (
        "@" in host
        and ":" in host.rpartition("@")[0]
        or "?" in address
        and address.startswith("http")
    ):
        raise AmodalError(
            f"an address at {host.rpartition('@')[2]} has a password or a signature in it, which would end up in runs and logs. Give the "
            "address without, and the key to the store's own tools (of S3: ~/.aws)."
        )
    if "::" in address:
        raise AmodalError(f"{address} is a chain of addresses; give the one of the store")
    store = Store(address, str(Path(schema).resolve()) if schema else "")
    root = Remote(store.top, store)
    if not root.exists() or root.is_dir() and not root.names():
        raise AmodalError(
            f"there is nothing at {address}. Is the name of the bucket right, and the path below it?"
        )
    if root.suffix == ".toml":
        store.below(root.parent.path)
    return root


def learnt_from(config: dict) -> str:
    """Where a run says that its data is. Raises AmodalError for an address: the run may be somebody
    else's, and nothing is asked of a store that nobody has named here."""
    about = config.get("data", {})
    where = str(about.get("path") or about.get("name"))
    if "://" in where:
        raise AmodalError(
            f"the run learnt from {where}. If data is to be read from there, say so: --data {where}"
        )
    return where


def described_by(path: Path | Remote) -> Path | None:
    """The dataset.toml of this machine that was given with an address."""
    top = isinstance(path, Remote) and path.path == path.store.top
    return Path(path.store.schema) if top and path.store.schema else None


def together(function: Callable, items: Iterable, far: bool = True) -> list:
    """[function(item) for item in items]; if `far`, many at once, so that the time that a store
    takes to answer does not add up."""
    if not far:
        return [function(item) for item in items]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(function, items))
