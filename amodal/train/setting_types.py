"""The types of the settings of `pretrain`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from numbers import Integral
from typing import Any

from amodal.core import AmodalError
from amodal.core.user_code import call_mistake

Accepts = Callable[[Any], bool]
MAX_SEED = 2**63


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_seed(value: Any) -> bool:
    return _is_whole(value) and -MAX_SEED <= value < MAX_SEED


def _is_list_of_words(value: Any) -> bool:
    many = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
    return many and all(isinstance(word, str) for word in value)


def _has_names(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _is_selection(value: Any) -> bool:
    return callable(value) and not call_mistake(value, "dataset", "rows")


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


TYPES: dict[str, tuple[Accepts, str]] = {
    **dict.fromkeys(("size", "device", "matmul", "curate"), (_is_word, "a word")),
    **dict.fromkeys(("trunk", "positions", "pool"), (_is_word, "a word")),
    "cache_features": (_is_word, "mean or tokens"),
    "fields": (_is_list_of_words, "a list of names, such as ['image', 'text']"),
    "seed": (_is_seed, "a whole number of at most 63 bits"),
    **dict.fromkeys(("workers", "save_every"), (_is_count, "a whole number, 0 or more")),
    **dict.fromkeys(
        ("resume", "train_backbones", "conflict", "progress"), (_is_flag, "True or False")
    ),
    "backbones": (_has_names, "field -> backbone, such as {'image': 'convnet'}"),
    **dict.fromkeys(("options", "curate_options"), (_has_names, "a dict of name -> value")),
    "init_from": (_is_path, "the folder of a run"),
    "adapt": (_has_names, "a dict of name -> value"),
    "only": (_is_selection, "a function (dataset, rows) -> rows"),
}
"""Setting -> what it accepts, and that in words. The others are checked where they are read."""


def typed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, whose whole numbers are of Python's own type.

    Raises:
        AmodalError: For a value of another type than its setting has.
    """
    for name, value in settings.items():
        if name not in TYPES:
            continue
        accepts, expected = TYPES[name]
        if not accepts(value):
            shown = repr(value) if isinstance(value, str | int | float) else type(value).__name__
            raise AmodalError(f"{name} must be {expected}; it is {shown[:80]}")
    return {n: int(v) if n in TYPES and _is_whole(v) else v for n, v in settings.items()}
