"""The lock of a study's journal: one that dies with the process that has it.

Optuna's locks are files of their own. One that a killed process leaves behind stops all others for
half a minute, and the line that it was writing makes the journal unreadable. The kernel releases
this lock when its process ends in whatever way, and whoever takes it next cuts a torn line off.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from optuna.storages.journal import JournalFileOpenLock


class KernelLock(JournalFileOpenLock):
    """An exclusive `flock` of a file beside the journal.

    Args:
        journal: The file that it protects.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.path = journal.with_name(f"{journal.name}.lock")
        self.handle = -1

    def acquire(self) -> bool:
        """Wait until no other process has the lock."""
        self.handle = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o644)
        fcntl.flock(self.handle, fcntl.LOCK_EX)
        cut_torn_line(self.journal)
        return True

    def release(self) -> None:
        """Let others have it."""
        os.close(self.handle)


def cut_torn_line(journal: Path) -> None:
    """Remove what a killed process left of its last line."""
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - 4096, 0)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
