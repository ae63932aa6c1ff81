"""What is wrong with code of the user's: how it is written, and what it raises."""

from __future__ import annotations

import inspect
import os
import site
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import amodal
from amodal.core.references import underlying
from amodal.errors import AmodalError, UserCodeError

PACKAGE = f"{Path(amodal.__file__).parent}{os.sep}"
INSTALLED = tuple(
    {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), *site.getsitepackages()}
)
"""Folders whose code is not the user's."""


@contextmanager
def user_code(what: str, code: object = None, advice: str = "") -> Iterator[None]:
    """What code of the user's raises within it becomes an error that names its line.

    Args:
        what: What is called, such as "mine()".
        code: The function or object that is called, for errors of the call itself.
        advice: What to do, in a sentence.

    Raises:
        UserCodeError: Of anything that was raised, also by `sys.exit`, but KeyboardInterrupt. An
            AmodalError is raised as it is.
    """
    try:
        yield
    except (AmodalError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        message = f"{what} raised {described(error, code)}{f'. {advice}' if advice else ''}"
        raise UserCodeError(message, code_traceback(error)) from error


def described(error: BaseException, code: object = None) -> str:
    """Type, text and place of an error, such as "ValueError: boom (mine.py, line 3)".

    Args:
        code: What was called, whose definition is the place where no line of it was reached.
    """
    text = str(error).strip()
    if isinstance(error, SystemExit):
        text = f"sys.exit({error.code!r})"
    if isinstance(error, SyntaxError):  # its text has the line already
        return f"{type(error).__name__}: {text}"
    frames = _frames(error)
    place = (frames[-1].filename, frames[-1].lineno) if frames else definition_place(code)
    shown = f"{type(error).__name__}{f': {text}' if text else ''}"
    return f"{shown} ({place[0]}, line {place[1]})" if place else shown


def code_traceback(error: BaseException) -> str:
    """The traceback of an error from the first line of the user's code on, "" without one."""
    frames = traceback.extract_tb(error.__traceback__)
    users = _frames(error)
    if not users:
        return ""
    lines = traceback.format_list(frames[frames.index(users[0]) :])
    head = "Traceback of your code (most recent call last):\n"
    return head + "".join([*lines, *traceback.format_exception_only(error)]).rstrip()


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames in the user's code; where there are none, those outside amodal."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((PACKAGE, "<frozen"))
        and Path(frame.filename).name != "contextlib.py"
    ]
    return [f for f in frames if not f.filename.startswith(INSTALLED)] or frames


def definition_place(code: object) -> tuple[str, int] | None:
    """The file and the line where a function or class is defined, None where that is unknown."""
    try:
        definition: Any = inspect.unwrap(underlying(code))
        return str(inspect.getsourcefile(definition)), inspect.getsourcelines(definition)[1]
    except (OSError, TypeError, ValueError):
        return None


def async_mistake(function: object) -> str:
    """Why a call of a function would run none of it: a clause, "" if it would."""
    for routine in (function, inspect.getattr_static(type(function), "__call__", None)):
        if inspect.iscoroutinefunction(routine) or inspect.isasyncgenfunction(routine):
            return "is async, and nothing awaits it; write it with def alone"
        if inspect.isgeneratorfunction(routine):
            return "is a generator (it has a yield), so a call runs none of it; take the yield out"
    return ""


def call_mistake(function: Callable[..., object], *arguments: str) -> str:
    """Why a function cannot be called with these arguments by position, and at once.

    Args:
        arguments: What each is, for the message.

    Returns:
        A clause such as "takes (step) and is called with (step, values)"; "" if it can be called.
    """
    if mistake := async_mistake(function):
        return mistake
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some of those that are built in do not say
        return ""
    try:
        signature.bind(*arguments)
    except TypeError:
        return f"takes {signature}, and is called with ({', '.join(arguments)})"
    return ""
