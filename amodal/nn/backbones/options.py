"""Options of our own backbones: `convnet:width=32,norm=group`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from amodal.core import AmodalError, unknown

OptionsT = TypeVar("OptionsT")


def read_options(
    library: str, text: str, kind: type[OptionsT], choices: Mapping[str, tuple[str, ...]]
) -> OptionsT:
    """The options of a spec.

    Args:
        library: The first word of the spec, for messages.
        text: NAME=VALUE,…; "" for the defaults.
        kind: A dataclass of whole numbers and words.
        choices: Name of an option that is a word -> the words that it may be.

    Raises:
        AmodalError: For an unknown option, a word that is none of the choices, and a number below
            1 (0 where the default is 0).
    """
    known = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    chosen: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in known:
            raise unknown(f"option of {library}", name, known, "Expected NAME=VALUE,NAME=VALUE.")
        if name in choices:
            if value not in choices[name]:
                raise unknown(f"{name} of {library}", value, choices[name])
            chosen[name] = value
            continue
        least = min(int(str(known[name])), 1)
        if not value.isdecimal() or int(value) < least:
            raise AmodalError(
                f"{library}:{name} must be a whole number of at least {least}, got {value!r}"
            )
        chosen[name] = int(value)
    return kind(**chosen)
