"""Parse lists, NAME=VALUE pairs, options of methods and old option names.

It imports nothing that takes time.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Collection
from dataclasses import is_dataclass
from typing import Annotated, get_args, get_origin, get_type_hints


def listed(text: str) -> list[str] | None:
    """ "a, b" -> ["a", "b"]; None for an empty text. A name with a comma stands in double quotes.

    Raises:
        AmodalError: For quotes that are not closed.
    """
    from amodal.errors import AmodalError

    parts = text.split(",")
    if '"' in text:
        try:
            parts = next(csv.reader([text], skipinitialspace=True, strict=True))
        except csv.Error:
            raise AmodalError(
                f"{text} should be A,B with double quotes around names that have a comma, such as "
                "'\"size, in m\",colour'"
            ) from None
    return [part.strip() for part in parts if part.strip()] or None


def pairs(items: tuple[str, ...]) -> dict[str, str]:
    """("a=1", "b=2") -> {"a": "1", "b": "2"}."""
    from amodal.errors import AmodalError

    for item in items:
        if "=" not in item:
            raise AmodalError(f"{item!r} should be NAME=VALUE")
    return dict(item.split("=", 1) for item in items)


def weights_of(text: str) -> list[float] | None:
    """ "2, 1" -> [2.0, 1.0]; None for an empty text."""
    from amodal.errors import AmodalError

    try:
        return [float(part) for part in listed(text) or ()] or None
    except ValueError:
        raise AmodalError(f"{text!r} should be numbers, one for each run, such as 2,1") from None


def numbers(items: tuple[str, ...]) -> dict[str, float]:
    """("a=1", "like:b=c=-0.5") -> {"a": 1.0, "like:b=c": -0.5}."""
    from amodal.errors import AmodalError

    values: dict[str, float] = {}
    for item in items:
        name, _, number = item.rpartition("=")
        try:
            values[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise AmodalError(f"{item!r} should be NAME=NUMBER, such as text=0.5 or image=-1")
    return values


def take_method_options(
    argv: list[str], prefix: str = "--method."
) -> tuple[list[str], dict[str, str]]:
    """Split off `--method.NAME VALUE` and `--method.NAME=VALUE`.

    Returns:
        The other words, and name -> value.
    """
    rest: list[str] = []
    options: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        if not word.startswith(prefix):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix(prefix).partition("=")
        options[name.replace("-", "_")] = value if equals else next(words, "")
    return rest, options


def list_options(verb: Callable[..., None]) -> set[str]:
    """The options of a verb that take any number of values, as "--templates"."""
    return _lists(get_type_hints(verb, include_extras=True))


def _lists(hints: dict[str, object]) -> set[str]:
    found: set[str] = set()
    for name, hint in hints.items():
        kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if get_origin(kind) is tuple:
            found.add(f"--{name.replace('_', '-')}")
        elif is_dataclass(kind):  # options that verbs share
            found |= _lists(get_type_hints(kind, include_extras=True))
    return found


def joined(words: list[str], lists: Collection[str] = ()) -> list[str]:
    """Put the values of an option that is repeated behind its first occurrence.

    The parser would take the last occurrence alone, and say nothing of the others.

    Args:
        words: Of a command line.
        lists: Options that take any number of values; others are joined where all of their values
            are NAME=VALUE.
    """
    groups: list[list[str]] = [[]]  # an option and what follows it
    for word in words:
        option, equals, value = word.partition("=")
        if word.startswith("--"):
            split = equals and ("=" in value or option in lists)
            groups.append([option, value] if split else [word])
        else:
            groups[-1].append(word)
    first: dict[str, list[str]] = {}
    out: list[list[str]] = []
    for group in groups:
        option, values = (group[0], group[1:]) if group else ("", [])
        many = option in lists or all("=" in v for v in values)
        if not option.startswith("--") or not values or not many:
            out.append(group)
        elif option in first:
            first[option] += values
        else:
            first[option] = group
            out.append(group)
    return [word for group in out for word in group]


def current_names(words: list[str]) -> list[str]:
    """Replace option names of the previous release, with a DeprecationWarning."""
    from amodal.core.recipe import OLD_NAMES

    current = {
        f"--{old.replace('_', '-')}": f"--{new.replace('_', '-')}" for old, new in OLD_NAMES.items()
    }
    renamed = []
    for word in words:
        name, equals, value = word.partition("=")
        if name in current:
            message = f"{name} is called {current[name]} now"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        renamed.append(current.get(name, name) + equals + value)
    return renamed
