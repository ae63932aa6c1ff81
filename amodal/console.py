"""Where results are printed."""

from __future__ import annotations

import sys

from rich.console import Console

PIPE_WIDTH = 140


def stdout() -> Console:
    """A file or a pipe has no width of its own; tables need more than the 80 columns that would be
    assumed."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
