"""A lock between processes, that ends with the process and those that it forked meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from amodal.core.regular_file import regular


@contextmanager
def locked(path: str | Path, *, wait: bool = True, remove: bool = False) -> Iterator[None]:
    """Have a file to oneself, while the block runs.

    The file itself stays where it is, empty, or is removed at the end: who opened it before that
    and gets the lock after it has not the file that others see. On a system without `flock` nothing
    is locked.

    Args:
        path: The file, which is made where there is none. Its folder must be there.
        wait: Whether to wait for another process that has it.
        remove: The file when the block ends. Not with `wait`.

    Raises:
        BlockingIOError: If another process has it, or had it until now, and `wait` is False.
        OSError: If it cannot be written.
    """
    with regular(Path(path)).open("w", encoding="utf-8") as file:
        try:
            import fcntl
        except ImportError:
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if remove and not _is_at(file, Path(path)):
            raise BlockingIOError(f"another process had {path} until now")
        try:
            yield
        finally:
            if remove:
                with suppress(OSError):  # Windows removes no open file
                    Path(path).unlink()
            with suppress(ImportError):  # a process that was forked meanwhile would go on having it
                import fcntl

                fcntl.flock(file, fcntl.LOCK_UN)


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is that at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
