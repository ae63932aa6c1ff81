"""The console of results."""

from __future__ import annotations

import io
import sys
from typing import IO

from rich.console import Console, RenderableType

PIPE_WIDTH = 140
"""Columns where stdout is not a terminal. Tables need more than rich's default of 80."""


# In a notebook rich would show HTML beside what is printed, and write nothing where it is asked to.


def stdout(file: IO[str] | None = None) -> Console:
    """A rich console on stdout, or on a file in the width of stdout."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=file, width=width, force_jupyter=False)


def stderr() -> Console:
    """A rich console on stderr, for progress and notes."""
    return Console(stderr=True, force_jupyter=False)


class Printed:
    """A result that `print` shows as its table."""

    def table(self) -> RenderableType:
        """For a terminal."""
        raise NotImplementedError

    def __str__(self) -> str:
        text = io.StringIO()
        stdout(text).print(self.table())
        return text.getvalue().rstrip("\n")
