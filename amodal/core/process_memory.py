"""Memory that this process takes."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path


def memory_in_use() -> int:
    """Resident bytes of this process; the most so far where a system does not say."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_memory()


def peak_memory() -> int:
    """The most resident bytes that this process has had. On Linux they begin with those of the
    process that started it."""
    import resource  # not on every system

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def free_cycles() -> None:
    """Free what nothing but cycles of references holds.

    Python looks for such cycles when it has made many objects. A run that has ended is few objects
    and hundreds of megabytes: its weights, their gradients and the averages of its optimizer.
    """
    gc.collect()
