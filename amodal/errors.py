"""Errors for users: what was given, what is expected, the nearest valid name, what to do."""

from __future__ import annotations

import difflib
import inspect
import itertools
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

SHOWN = 24
"""Names that an error lists at most."""


LONGEST = 80
"""Characters of a value in an error."""

PACKAGE = __name__.partition(".")[0]
DECORATORS = ("contextlib", "torch")
"""Modules whose decorators our functions have."""


class AmodalError(ValueError):
    """A mistake that the user can correct. The command line prints it without a traceback."""


class AmodalWarning(UserWarning):
    """What a user should know, and nothing stops for. The command line prints the message alone."""


def warn(message: str) -> None:
    """Warn at the line of the user's that called the library, however deep in it this is.

    Args:
        message: An `AmodalWarning`.
    """
    if (shown := _SHOWN.get()) is not None:
        if message in shown:
            return
        shown.add(message)
    # the user may be called by us and call us, so the outermost of our frames is searched for;
    # decorators lie around it
    frame, level, outermost = inspect.currentframe(), 1, 1
    while frame is not None and (caller := frame.f_back) is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package == PACKAGE or package in DECORATORS and outermost == level - 1:
            outermost = level
        frame, level = caller, level + 1
    warnings.warn(message, AmodalWarning, stacklevel=outermost + 1)


_SHOWN: ContextVar[set[str] | None] = ContextVar("messages of `warn` so far", default=None)


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Within it `warn` says each message once, where what is repeated would repeat it too."""
    token = _SHOWN.set(set())
    try:
        yield
    finally:
        _SHOWN.reset(token)


class UserCodeError(AmodalError):
    """Code of the user's raised. The command line prints the traceback of that code too.

    Args:
        message: What was called, what it raised, and what to do.
        code_traceback: The part of the traceback that is in the user's code, "" for none.
    """

    def __init__(self, message: str, code_traceback: str = ""):
        super().__init__(message)
        self.code_traceback = code_traceback


def described(value: object) -> str:
    """What a person gave, for an error: containers by their entries, all else as Python writes it,
    up to 80 characters."""
    if isinstance(value, Mapping):
        return f"a dict of {_listed(value)}" if value else "an empty dict"
    if isinstance(value, (list, tuple, set, frozenset)):
        kind = type(value).__name__
        if not value:
            return f"an empty {kind}"
        plain = all(isinstance(entry, (str, int, float)) for entry in value)
        return f"a {kind} of {_listed(value) if plain else f'{len(value)} entries'}"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _listed(entries: Collection[object]) -> str:
    few = [str(entry)[:20] for entry in itertools.islice(entries, 4)]
    return ", ".join(few) + (f", … ({len(entries)} in all)" if len(entries) > len(few) else "")


def nearest(name: object, names: Iterable[str], cutoff: float = 0.5) -> list[str]:
    """Up to three of `names` that are similar to `name`, best first; none to what is no text.

    Args:
        cutoff: The least similarity, from 0 to 1.
    """
    if not isinstance(name, str):
        return []
    return difflib.get_close_matches(name, list(names), n=3, cutoff=cutoff)


def _quoted(name: str) -> str:
    """A name as it stands in a list: in double quotes if it has a comma."""
    return f'"{name}"' if "," in name else name


def unknown(
    kind: str,
    name: object,
    names: Iterable[str],
    hint: str = "",
    *,
    meant: str = "",
    cutoff: float = 0.5,
) -> AmodalError:
    """The error for a name that is not one of `names`.

    Args:
        kind: What it should be a name of, such as "field".
        hint: A sentence to add.
        meant: The one of `names` that is proposed; by default those that are similar.
        cutoff: See `nearest`.
    """
    names = sorted(names)
    close = [_quoted(n) for n in ([meant] if meant else nearest(name, names, cutoff))]
    listed = ", ".join(map(_quoted, names[:SHOWN])) or "none"
    if len(names) > SHOWN:
        listed += f", … ({len(names)} in all)"
    message = f"no {kind} is called {described(name)}."
    if close:
        message += f" Did you mean {' or '.join(close)}?"
    message += f" There are: {listed}."
    return AmodalError(f"{message} {hint}" if hint else message)
