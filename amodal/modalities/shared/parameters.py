"""Parameters of modalities from TOML and JSON, with checks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.modalities.shared.formatting import shortened

if TYPE_CHECKING:
    from amodal.modalities.shared.base import Modality

M = TypeVar("M", bound="Modality")


def build(cls: type[M], parameters: Mapping[str, Any]) -> M:
    """`cls` with parameters as read from TOML or JSON.

    Args:
        cls: a modality.
        parameters: its fields.

    Raises:
        AmodalError: an unknown name, or a wrong type.
    """
    kind, defaults = cls.kind, cls()
    known = {f.name: str(f.type) for f in fields(cast(Any, cls))}
    for name in parameters:
        if name not in known:
            raise unknown(f"parameter of {kind}", name, known)
    return cls(
        **{
            n: _typed(f"{kind}.{n}", v, getattr(defaults, n), known[n])
            for n, v in parameters.items()
        }
    )


MAX_NUMBER = 2**31
"""No size, rate or count of a modality is larger; the smaller limits of each are in its page."""


def _typed(name: str, value: Any, default: Any, declared: str) -> Any:
    """`value` in the type of the parameter's default.

    Lists become tuples, and whole numbers may stand for floats. Numbers are finite and none is
    huge: they may come from a file that anybody wrote.

    Args:
        name: for the message.
        value: to convert.
        default: of the parameter.
        declared: the annotation, for the elements of a tuple.
    """
    expected = type(default)
    if expected is tuple and isinstance(value, (list, tuple)):
        item_default = {"tuple[str": "", "tuple[int": 0, "tuple[float": 0.0}.get(
            declared.partition(",")[0]
        )
        return tuple(
            value
            if item_default is None
            else (_typed(f"each of {name}", v, item_default, "") for v in value)
        )
    if expected is dict and isinstance(value, Mapping):
        return {str(k): _typed(f"{name}.{k}", v, (), "tuple[str, ...]") for k, v in value.items()}
    if expected is str and isinstance(value, (str, os.PathLike)) and "\0" not in os.fspath(value):
        return os.fspath(value)
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if number and not (
        abs(value) <= MAX_NUMBER
        if expected is int
        else abs(value) <= float(np.finfo(np.float32).max)
    ):
        raise AmodalError(
            f"{name} must be a finite number of reasonable size, got {shortened(repr(value))}"
        )
    if expected is float and number or expected is int and number and int(value) == value:
        return expected(value)
    if expected is bool and isinstance(value, bool):
        return value
    names = {
        tuple: "a list",
        dict: "a table",
        str: "text",
        float: "a number",
        int: "a whole number",
        bool: "true or false",
    }
    raise AmodalError(f"{name} must be {names[expected]}, got {shortened(repr(value))}")


def at_most(kind: str, limits: Mapping[str, tuple[float, float]]) -> None:
    """Check parameters that would only fill the memory.

    Args:
        kind: name of the modality, for the message.
        limits: parameter -> (its value, its maximum).

    Raises:
        AmodalError: a value is above its maximum.
    """
    for name, (value, most) in limits.items():
        if value > most:
            raise AmodalError(f"{kind}.{name} is at most {most:,}, got {value:,}")
