"""The check before a file is opened: to open a pipe waits for somebody at its other end."""

from __future__ import annotations

import os
import stat
from typing import Any, TypeVar

P = TypeVar("P")
"""A path of this machine or of a store."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular(path: P) -> P:
    """The path, of a file, of nothing, or of an object in a store.

    Args:
        path: To open next.

    Raises:
        OSError: If it is a folder, a pipe, a socket or a device.
    """
    if kind := kind_of(path):
        raise OSError(f"it is no file, but {kind}")
    return path


def kind_of(path: object) -> str:
    """What a path leads to, if that is no file: "a pipe". "" for a file, for nothing, and for an
    object in a store."""
    if not isinstance(path, (str, os.PathLike)):
        return ""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # who opens it says why
        return ""
    return KINDS.get(stat.S_IFMT(mode), "")


def is_file_or_pipe(path: Any) -> bool:
    """Whether a path leads to a file, or to what passes for one until it is opened. A text that
    names a pipe is no text, but a file that cannot be read."""
    return bool(path.is_file()) or kind_of(path) not in ("", "a folder")
