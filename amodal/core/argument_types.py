"""Checks of the types of arguments, with a sentence for those that are wrong."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, cast

from amodal.errors import AmodalError

MAX_SEED = 2**63


def check_type(name: str, value: object, accepts: Callable[[Any], bool], expected: str) -> None:
    """Check an argument.

    Args:
        name: Of the argument.
        accepts: Whether it takes a value.
        expected: What it takes, in words.

    Raises:
        AmodalError: If it does not take the value.
    """
    if not accepts(value):
        shown = repr(value) if isinstance(value, str | int | float) else type(value).__name__
        odd = [k for k in value if not isinstance(k, str)] if isinstance(value, Mapping) else []
        if odd:
            shown = f"a mapping with the key {odd[0]!r}, which is no text"
        raise AmodalError(f"{name} must be {expected}; it is {shown[:80]}")


def is_word(value: Any) -> bool:
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether it is a whole number, 0 or more."""
    return is_whole(value) and value >= 0


def is_seed(value: Any) -> bool:
    return is_whole(value) and -MAX_SEED <= value < MAX_SEED


def is_list(value: Any) -> bool:
    """Whether it is a list, tuple or the like, and no text or mapping."""
    return isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)


def is_list_of_words(value: Any) -> bool:
    return is_list(value) and all(isinstance(word, str) for word in value)


def list_of_words(name: str, value: Any, example: str) -> list[str]:
    """Texts that come one by one, as a list. Raises AmodalError for a single text, and for what is
    none."""
    words = [*value] if isinstance(value, Iterable) and not isinstance(value, str) else value
    check_type(name, words, is_list_of_words, f"a list of names, such as {example}")
    return cast(list[str], words)


def has_names(value: Any) -> bool:
    """Whether it is a mapping whose keys are texts."""
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


LONGEST_NAME = 255
"""Bytes of the name of a file or folder that a file system takes."""


def is_path(value: Any) -> bool:
    """Whether it may name a file or folder: an empty text would be the working directory."""
    if not isinstance(value, str):
        return isinstance(value, os.PathLike)
    names = value.split("/")
    return bool(value) and "\0" not in value and max(map(_length, names)) <= LONGEST_NAME


def _length(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))


def is_list_of_numbers(value: Any) -> bool:
    return is_list(value) and all(
        isinstance(one, Real) and math.isfinite(one) and not isinstance(one, bool) for one in value
    )
