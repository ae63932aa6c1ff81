"""One object store: the listing of what is in it, and requests to it.

A request that fails in passing is sent again. Errors are written for a person.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from amodal.core import AmodalError

RETRY_DELAYS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds until a failed request is sent again, give or take a half. After the last one the run
stops."""
INSTALL = {
    "s3": "amodal[remote]",
    "s3a": "amodal[remote]",
    "http": "amodal[remote]",
    "https": "amodal[remote]",
}
INSTALL |= {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""Protocol -> the package that fsspec needs for it."""
VERSION_KEYS = (
    "ETag",
    "etag",
    "md5Hash",
    "Content-MD5",
    "LastModified",
    "last_modified",
    "updated",
    "Last-Modified",
    "mtime",
    "created",
)
"""What stores call the attribute that changes with the content, the best first."""

NO_SIZE, UNKNOWN_SIZE = -2, -3
"""`Stat.st_size` of an object whose size the store does not say, and of one whose size was not in
the listing and has not been asked for yet."""

FileSystem = Any
"""An fsspec file system. fsspec has no types."""
Info = Mapping[str, Any]
"""What fsspec says about an object: "type", "size" and what the store adds."""
T = TypeVar("T")


class UnreadableObject(AmodalError, OSError):
    """One object that cannot be read: gone, changed, or access denied. It costs one value."""


class Unreachable(AmodalError):
    """The store does not answer, or denies all access. A run stops, and can go on later."""


@dataclass(frozen=True)
class Stat:
    """An object or a folder of a store. The names are those of `os.stat_result`.

    Attributes:
        st_size: bytes, below 0 where the store does not say.
        st_mtime_ns: a text that changes when the object does.
        folder: whether it is a folder.
    """

    st_size: int
    st_mtime_ns: str
    folder: bool = False


class Store:
    """A store, with what was listed of it so far.

    Args:
        root: the address as the user wrote it.
        schema: a dataset.toml on this machine that was given with the address, "" for none.
    """

    def __init__(self, root: str, schema: str = "") -> None:
        self.root, self.schema = root.rstrip("/"), schema
        self.ends_in_slash = root.endswith("/")
        # Where the store does not say what has changed, each process that opens it starts anew.
        self.session = secrets.token_hex(4)
        self.protocol = root.partition("://")[0].lower()
        self.http = self.protocol in ("http", "https")
        self.top = str(self._system()._strip_protocol(root)).rstrip("/")
        self.top = unquote(self.top) if self.http else self.top
        self.ignores_ranges = False
        self.known: dict[str, Stat | None] = {}
        self.listed: tuple[str, ...] = ()

    def address(self, path: str) -> str:
        """What people call a path. Of the top: what opens the store a second time."""
        if path == self.top:
            return self.root + (f"#{self.schema}" if self.schema else "")
        if path.startswith(f"{self.top}/"):
            return self.root + path[len(self.top) :]
        return path if self.http else f"{self.protocol}://{path.lstrip('/')}"

    def info(self, path: str) -> Stat | None:
        """What is at a path, None for nothing. A folder is listed, with all that is below."""
        if path not in self.known:
            # A cell of a table may hold any text; this one names no object.
            invalid = ".." in path.split("/") or len(path) > 1024 or not path.isprintable()
            if invalid or any(path.startswith(f"{folder}/") for folder in self.listed):
                return None
            stat = self.known[path] = self._request_info(path)
            if stat and stat.folder:
                self.list_below(path)
        stat = self.known[path]
        if stat and stat.st_size == UNKNOWN_SIZE:  # listed by a web page without sizes
            stat = self._request_info(path)
            stat = self.known[path] = stat and replace(stat, st_size=max(stat.st_size, NO_SIZE))
        return stat

    def list_below(self, folder: str) -> dict[str, Stat | None]:
        """Everything that is known, after listing this folder."""
        if not any(f"{folder}/".startswith(f"{done}/") for done in self.listed):
            entries = self.request(folder, lambda fs, path: _find(fs, path, self.http))
            for name, info in entries.items():
                if self.http and ("?" in name or "#" in name):  # the page itself, sorted otherwise
                    continue
                name = unquote(name) if self.http else name
                below = (
                    name.startswith(f"{folder}/")
                    and not name.endswith("/")
                    and ".." not in name.split("/")
                )
                if below and info["type"] == "file":
                    self.known[name] = _stat(info)
                    while (name := name.rpartition("/")[0]) != folder and name not in self.known:
                        self.known[name] = Stat(0, "", True)
            self.listed += (folder,)
        return self.known

    def mark_as_ignoring_ranges(self) -> None:
        """The server sent a whole file when it was asked for a range of it."""
        self.ignores_ranges = True

    def forget(self, path: str) -> None:
        """The object at `path` was written: what was listed of it no longer holds."""
        self.known.pop(path, None)

    def request(self, path: str, call: Callable[[FileSystem, str], T]) -> T:
        """Send a request, several times if it fails in passing.

        Args:
            path: of the object or folder.
            call: (file system, path) -> the answer.

        Returns:
            What `call` returns.

        Raises:
            UnreadableObject: this object cannot be read.
            Unreachable: the store does not answer, or denies all access.
        """
        for attempt in range(len(RETRY_DELAYS) + 1):
            delay = RETRY_DELAYS[attempt] if attempt < len(RETRY_DELAYS) else None
            try:
                return call(self._system(), quote(path, safe="/:[]") if self.http else path)
            except Exception as raised:  # each store has its own
                error = _cause(raised)
                if isinstance(error, FileNotFoundError):
                    raise UnreadableObject(f"{self.address(path)} is not there") from error
                out_of_range = getattr(error, "status", 0) == 416
                if out_of_range or "range" in _message(error).lower() and not _passing(error):
                    raise UnreadableObject(
                        f"{self.address(path)} has changed since it was listed: {_message(error)}"
                    ) from error
                if denied(error):
                    raise self._denied(path, error) from error
                if not _passing(error) or delay is None:
                    tries = "" if delay is not None else f" to {len(RETRY_DELAYS) + 1} requests"
                    raise Unreachable(
                        f"{self.address(self.top)} does not answer{tries}: {_message(error)}"
                    ) from error
            # spread, so that workers which failed together do not come back together
            time.sleep(delay * random.uniform(0.5, 1.5))
        raise AssertionError("the last attempt returns or raises")

    def _denied(self, path: str, error: BaseException) -> AmodalError:
        """Access to one object is denied, or to all of them. The difference matters: a key that has
        expired must not empty the data value by value."""
        if path != self.top:
            try:
                self.request(self.top, lambda fs, top: fs.info(top))
                return UnreadableObject(f"access to {self.address(path)} is denied")
            except Unreachable as other:
                return other
        return Unreachable(
            f"access to {self.address(self.top)} is denied: {_message(error)}. The key is taken "
            "from where the store's own tools look for it (of S3: AWS_PROFILE, AWS_ACCESS_KEY_ID, "
            "~/.aws; without any, of a public bucket: FSSPEC_S3_ANON=true)."
        )

    def _request_info(self, path: str) -> Stat | None:
        folder = (
            path == self.top
            and self.ends_in_slash
            or path.count("/") < 3
            or not PurePosixPath(path).suffix
        )
        if self.http and folder:  # a web server itself calls everything a file
            return Stat(0, "", True)
        try:
            return _stat(self.request(path, lambda fs, path: fs.info(path)))
        except UnreadableObject as error:
            if denied(error.__cause__):
                raise
            return None

    def _system(self) -> FileSystem:
        """fsspec's file system, one for each process."""
        try:
            from fsspec.core import url_to_fs

            # `known` is the listing; one more in fsspec would not notice `forget`
            return url_to_fs(self.root, use_listings_cache=False)[0]
        except ImportError as error:
            package = INSTALL.get(self.protocol)
            todo = f"pip install '{package}'" if package else str(error).splitlines()[0]
            raise AmodalError(
                f"{self.protocol}:// addresses need a package that is not installed: {todo}"
            ) from error
        except OSError as error:  # a server that is not there
            raise AmodalError(f"{self.root} cannot be opened: {error}") from error
        except ValueError as error:
            raise AmodalError(
                f"{self.root} is no address that can be read: {_message(error)}"
            ) from error


def _find(fs: FileSystem, path: str, http: bool) -> dict[str, Info]:
    """All files below. A page that cannot be read must not pass for an empty folder."""
    options = {"on_error": "raise"} if http else {}
    return dict(fs.find(f"{path}/" if http else path, detail=True, **options))


def _stat(info: Info) -> Stat:
    size = info.get("size")
    version = next((str(info[name]) for name in VERSION_KEYS if info.get(name)), "")
    return Stat(UNKNOWN_SIZE if size is None else int(size), version, info["type"] == "directory")


def _cause(error: Exception) -> BaseException:
    """The error of the web server, where fsspec raised FileNotFoundError for it, as it does for
    all errors at the first request for a file."""
    cause = error.__cause__
    if cause is None or not isinstance(error, FileNotFoundError):
        return error
    from_server = type(cause).__module__.startswith("aiohttp")
    missing = getattr(cause, "status", 0) in (404, 410)
    return cause if from_server and not missing else error


def denied(error: BaseException | None) -> bool:
    """Whether an error says that access is denied, or that there is no key."""
    no_key = type(error).__name__ in (
        "NoCredentialsError",
        "PartialCredentialsError",
        "NoAuthInConfiguration",
    )
    return no_key or isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403)


def _passing(error: BaseException) -> bool:
    """Whether the next try may succeed."""
    status, name = getattr(error, "status", 0), type(error).__name__
    if status:
        return bool(status >= 500 or status in (408, 425, 429))
    lasting = (FileNotFoundError, IsADirectoryError, NotADirectoryError, AmodalError)
    net = any(
        word in name for word in ("Timeout", "Connect", "Disconnected", "Payload", "HTTPClient")
    )
    return net or isinstance(error, (OSError, TimeoutError)) and not isinstance(error, lasting)


def _message(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
