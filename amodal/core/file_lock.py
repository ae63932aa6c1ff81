"""A lock between processes, that ends with the process and those that it forked meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from amodal.core.regular_file import regular


@contextmanager
def locked(path: str | Path, *, wait: bool = True) -> Iterator[None]:
    """Have a file to oneself, while the block runs.

    The file itself stays where it is, empty: one that is removed could be locked twice. On a system
    without `flock` nothing is locked.

    Args:
        path: The file, which is made where there is none. Its folder must be there.
        wait: Whether to wait for another process that has it.

    Raises:
        BlockingIOError: If another process has it, and `wait` is False.
        OSError: If it cannot be written.
    """
    with regular(Path(path)).open("w", encoding="utf-8") as file:
        try:
            import fcntl
        except ImportError:
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            yield
        finally:
            with suppress(ImportError):  # a process that was forked meanwhile would go on having it
                import fcntl

                fcntl.flock(file, fcntl.LOCK_UN)
