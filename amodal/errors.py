"""Errors for a person: what was given, what was expected, the nearest valid name, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AmodalError(ValueError):
    """Something the user can mend. The command line prints its text without a traceback."""


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of `names` that `name` may have meant, best first."""
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)


def unknown(kind: str, name: str, names: Iterable[str], hint: str = "") -> AmodalError:
    """The error for a name that is not one of `names`."""
    names = sorted(names)
    close = nearest(name, names)
    listed = (
        ", ".join(names)
        if len(names) <= 24
        else ", ".join(names[:24]) + f", … ({len(names)} in all)"
    )
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    return AmodalError(
        f"no {kind} is called {name!r}.{meant} There are: {listed or 'none'}.{' ' + hint if hint else ''}"
    )
