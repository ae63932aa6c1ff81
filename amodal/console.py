"""The console of results."""

from __future__ import annotations

import sys

from rich.console import Console

PIPE_WIDTH = 140
"""Columns where stdout is not a terminal. Tables need more than rich's default of 80."""


def stdout() -> Console:
    """A rich console on stdout."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
