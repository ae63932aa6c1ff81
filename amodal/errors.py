"""Errors for users: what was given, what is expected, the nearest valid name, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 24
"""Names that an error lists at most."""


class AmodalError(ValueError):
    """A mistake that the user can correct. The command line prints it without a traceback."""


class AmodalWarning(UserWarning):
    """What a user should know, and nothing stops for. The command line prints the message alone."""


class UserCodeError(AmodalError):
    """Code of the user's raised. The command line prints the traceback of that code too.

    Args:
        message: What was called, what it raised, and what to do.
        code_traceback: The part of the traceback that is in the user's code, "" for none.
    """

    def __init__(self, message: str, code_traceback: str = ""):
        super().__init__(message)
        self.code_traceback = code_traceback


def nearest(name: object, names: Iterable[str]) -> list[str]:
    """Up to three of `names` that are similar to `name`, best first; none to what is no text."""
    if not isinstance(name, str):
        return []
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)


def unknown(kind: str, name: object, names: Iterable[str], hint: str = "") -> AmodalError:
    """The error for a name that is not one of `names`.

    Args:
        kind: What it should be a name of, such as "field".
        hint: A sentence to add.
    """
    names = sorted(names)
    close = nearest(name, names)
    listed = ", ".join(names[:SHOWN]) or "none"
    if len(names) > SHOWN:
        listed += f", … ({len(names)} in all)"
    message = f"no {kind} is called {name!r}."
    if close:
        message += f" Did you mean {' or '.join(close)}?"
    message += f" There are: {listed}."
    return AmodalError(f"{message} {hint}" if hint else message)
