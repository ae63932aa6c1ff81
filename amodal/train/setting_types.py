"""The types of the settings of `pretrain`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from amodal.core.argument_types import (
    check_type,
    has_names,
    is_count,
    is_flag,
    is_list_of_words,
    is_path,
    is_seed,
    is_whole,
    is_word,
)
from amodal.core.user_code import call_mistake


def _is_selection(value: Any) -> bool:
    return callable(value) and not call_mistake(value, "dataset", "rows")


TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("size", "device", "matmul", "curate"), (is_word, "a word")),
    **dict.fromkeys(("trunk", "positions", "pool"), (is_word, "a word")),
    "cache_features": (is_word, "mean or tokens"),
    "fields": (is_list_of_words, "a list of names, such as ['image', 'text']"),
    "seed": (is_seed, "a whole number of at most 63 bits"),
    **dict.fromkeys(("workers", "save_every", "experts"), (is_count, "a whole number, 0 or more")),
    **dict.fromkeys(
        ("resume", "train_backbones", "conflict", "progress"), (is_flag, "True or False")
    ),
    "backbones": (has_names, "field -> backbone, such as {'image': 'convnet'}"),
    **dict.fromkeys(("options", "curate_options"), (has_names, "a dict of name -> value")),
    "init_backbones": (has_names, "field -> backbone, such as {'image': Net}"),
    "init_from": (is_path, "the folder of a run, or timm:NAME@WEIGHTS"),
    "adapt": (has_names, "a dict of name -> value"),
    "only": (_is_selection, "a function (dataset, rows) -> rows"),
}
"""Setting -> what it accepts, and that in words. The others are checked where they are read."""


def typed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, whose whole numbers are of Python's own type.

    Raises:
        AmodalError: For a value of another type than its setting has.
    """
    for name, value in settings.items():
        if name in TYPES:
            check_type(name, value, *TYPES[name])
    return {n: int(v) if n in TYPES and is_whole(v) else v for n, v in settings.items()}
