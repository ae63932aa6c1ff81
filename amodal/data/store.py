"""One store that holds data: what is in it, and how it is asked: again if it fails in passing, with
errors for a person."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from amodal.core import AmodalError

WAITS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds until a request that failed is sent again, give or take a half; after the last one the
run stops."""
INSTALL = {
    "s3": "amodal[remote]",
    "s3a": "amodal[remote]",
    "http": "amodal[remote]",
    "https": "amodal[remote]",
}
INSTALL |= {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
VERSIONS = "ETag etag md5Hash Content-MD5 LastModified last_modified updated Last-Modified mtime created".split()
"""What stores call that which changes with the content, the best first."""


UNASKED = -3
"""The size of what was listed without one."""


class Lost(AmodalError, OSError):
    """One object that cannot be read: gone, changed, or not for us. It costs one value."""


class Unreachable(AmodalError):
    """The store does not answer, or answers nobody: nothing to skip, a run stops and can go on
    later."""


@dataclass(frozen=True)
class Stat:
    """st_size: bytes, below 0 where the store does not say; st_mtime_ns: what changes when the
    object does, a text."""

    st_size: int
    st_mtime_ns: str
    folder: bool = False


class Store:
    """root: the address that was given; schema: a file of this machine that describes what is
    there, if one was given with it."""

    def __init__(self, root: str, schema: str = ""):
        self.root, self.schema, self.slash = root.rstrip("/"), schema, root.endswith("/")
        self.opened = secrets.token_hex(
            4
        )  # stands for what has changed since, where the store does not tell
        self.protocol = root.partition("://")[0].lower()
        self.http = self.protocol in ("http", "https")
        self.top = self._system()._strip_protocol(root).rstrip("/")
        self.top = unquote(self.top) if self.http else self.top
        self.whole = False
        """Whether it is a server that gives whole files when it is asked for ranges."""
        self.known: dict[str, Stat | None] = {}
        self.listed: tuple[str, ...] = ()

    def address(self, path: str) -> str:
        """What people call a path; of the top, what opens it again."""
        if path == self.top:
            return self.root + (f"#{self.schema}" if self.schema else "")
        if path.startswith(f"{self.top}/"):
            return self.root + path[len(self.top) :]
        return path if self.http else f"{self.protocol}://{path.lstrip('/')}"

    def info(self, path: str) -> Stat | None:
        """What is at a path, None for nothing. A folder is listed, with all that is below."""
        if path not in self.known:
            odd = (
                ".." in path.split("/") or len(path) > 1024 or not path.isprintable()
            )  # a cell that names no object
            if odd or any(path.startswith(f"{folder}/") for folder in self.listed):
                return None
            self.known[path] = self._asked(path)
            if self.known[path] and self.known[path].folder:
                self.below(path)
        found = self.known[path]
        if found and found.st_size == UNASKED:  # listed by a page that tells no sizes
            found = self._asked(path)
            found = self.known[path] = found and replace(found, st_size=max(found.st_size, -2))
        return found

    def below(self, folder: str) -> dict[str, Stat | None]:
        """All that is known, after listing this folder."""
        if not any(f"{folder}/".startswith(f"{done}/") for done in self.listed):
            found = self.ask(folder, lambda fs, path: _found(fs, path, self.http))
            for name, about in found.items():
                if self.http and ("?" in name or "#" in name):  # the page itself, in another order
                    continue
                name = unquote(name) if self.http else name
                below = (
                    name.startswith(f"{folder}/")
                    and not name.endswith("/")
                    and ".." not in name.split("/")
                )
                if below and about["type"] == "file":
                    self.known[name] = _stat(about)
                    while (name := name.rpartition("/")[0]) != folder and name not in self.known:
                        self.known[name] = Stat(0, "", True)
            self.listed += (folder,)
        return self.known

    def ask(self, path: str, request: Callable):
        """What the store answers to `request` (file system, path), asked again while it fails in
        passing. Raises Lost and Unreachable."""
        for wait in (*WAITS, None):
            try:
                return request(self._system(), quote(path, safe="/:[]") if self.http else path)
            except Exception as error:  # each store has its own
                error = _cause(error)
                if isinstance(error, FileNotFoundError):
                    raise Lost(f"{self.address(path)} is not there") from error
                if (
                    getattr(error, "status", 0) == 416
                    or "range" in _said(error).lower()
                    and not _passing(error)
                ):
                    raise Lost(
                        f"{self.address(path)} has changed since it was listed: {_said(error)}"
                    ) from error
                if denied(error):
                    raise self._denied(path, error) from error
                if not _passing(error) or wait is None:
                    tries = "" if wait is not None else f" to {len(WAITS) + 1} requests"
                    raise Unreachable(
                        f"{self.address(self.top)} does not answer{tries}: {_said(error)}"
                    ) from error
            time.sleep(wait * random.uniform(0.5, 1.5))

    def _denied(self, path: str, error: Exception) -> AmodalError:
        """One object that is not for us, or all of them: a key that has expired must not empty the
        data bit by bit."""
        if path != self.top:
            try:
                self.ask(self.top, lambda fs, top: fs.info(top))
                return Lost(f"access to {self.address(path)} is denied")
            except Unreachable as other:
                return other
        return Unreachable(
            f"access to {self.address(self.top)} is denied: {_said(error)}. The key is taken from where the store's own tools look "
            f"for it (of S3: AWS_PROFILE, AWS_ACCESS_KEY_ID, ~/.aws; without any, of a public bucket: FSSPEC_S3_ANON=true)."
        )

    def _asked(self, path: str) -> Stat | None:
        folder = (
            path == self.top and self.slash or path.count("/") < 3 or not PurePosixPath(path).suffix
        )
        if self.http and folder:  # a web server itself calls everything a file
            return Stat(0, "", True)
        try:
            return _stat(self.ask(path, lambda fs, path: fs.info(path)))
        except Lost as error:
            if denied(error.__cause__):
                raise
            return None

    def _system(self):
        """fsspec's file system, one for each process."""
        try:
            from fsspec.core import url_to_fs

            return url_to_fs(self.root, use_listings_cache=False)[0]
        except ImportError as error:
            package = INSTALL.get(self.protocol)
            todo = f"pip install '{package}'" if package else str(error).splitlines()[0]
            raise AmodalError(
                f"{self.protocol}:// addresses need a package that is not installed: {todo}"
            ) from error
        except ValueError as error:
            raise AmodalError(
                f"{self.root} is no address that can be read: {_said(error)}"
            ) from error


def _found(fs, path: str, http: bool) -> dict[str, dict]:
    """All files below. A page that cannot be read must not pass for an empty folder."""
    return (
        fs.find(f"{path}/", detail=True, on_error="raise") if http else fs.find(path, detail=True)
    )


def _stat(about: dict) -> Stat:
    size = about.get("size")
    version = next((str(about[name]) for name in VERSIONS if about.get(name)), "")
    return Stat(UNASKED if size is None else int(size), version, about["type"] == "directory")


def _cause(error: Exception) -> Exception:
    """Web servers' errors, whatever they are, come as FileNotFoundError from the first look at a
    file."""
    cause = error.__cause__
    missing = not str(type(cause).__module__).startswith("aiohttp") or getattr(
        cause, "status", 0
    ) in (404, 410)
    return error if missing or not isinstance(error, FileNotFoundError) else cause


def denied(error: Exception) -> bool:
    missing = type(error).__name__ in (
        "NoCredentialsError",
        "PartialCredentialsError",
        "NoAuthInConfiguration",
    )
    return (
        missing or isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403)
    )


def _passing(error: Exception) -> bool:
    """Whether it may be over at the next try."""
    status, name = getattr(error, "status", 0), type(error).__name__
    if status:
        return status >= 500 or status in (408, 425, 429)
    lasting = (FileNotFoundError, IsADirectoryError, NotADirectoryError, AmodalError)
    net = any(
        word in name for word in ("Timeout", "Connect", "Disconnected", "Payload", "HTTPClient")
    )
    return net or isinstance(error, (OSError, TimeoutError)) and not isinstance(error, lasting)


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
