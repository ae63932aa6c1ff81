"""Options of a protocol: names, types and defaults, and how wrong values are rejected."""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from amodal.core import AmodalError
from amodal.errors import described

REQUIRED = MISSING
"""The default of an option that has none."""


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        name: Its name.
        type: An annotation, such as `int | None`.
        default: Its value where none is set; REQUIRED if there is none.
    """

    name: str
    type: Any
    default: Any = REQUIRED

    def check(self, value: Any, owner: str) -> Any:
        """Return the value.

        Args:
            value: What the user set.
            owner: The protocol, for the error.

        Raises:
            AmodalError: If the value is not of the option's type.
        """
        if fits(value, self.type):
            return value
        wanted = getattr(self.type, "__name__", None) if isinstance(self.type, type) else None
        shown = wanted or str(self.type).replace("collections.abc.", "").replace("typing.", "")
        raise AmodalError(
            f"{self.name} = {described(value)}: the protocol {owner} needs {shown} here"
        )


def of_function(function: Callable[..., Any], without: Collection[str] = ()) -> dict[str, Option]:
    """The options of a measuring function.

    Args:
        function: Its keyword-only parameters are the options.
        without: Parameters that are none.

    Returns:
        Name -> option.
    """
    hints = _hints(function)
    parameters = inspect.signature(function).parameters.values()
    chosen = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in without]
    empty = inspect.Parameter.empty
    return {
        p.name: Option(
            p.name, hints.get(p.name, Any), REQUIRED if p.default is empty else p.default
        )
        for p in chosen
    }


def _hints(owner: Callable[..., Any] | type) -> dict[str, Any]:
    try:
        return get_type_hints(owner)
    except NameError as error:
        raise AmodalError(
            f"the type of an option of {owner.__qualname__} cannot be read: {error}"
        ) from error


def of_dataclass(options: type) -> dict[str, Option]:
    """Name -> option, for each field of a dataclass."""
    hints = _hints(options)
    by_name = {}
    for f in fields(options):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        by_name[f.name] = Option(f.name, hints[f.name], default)
    return by_name


def filled(
    options: Iterable[Option], values: Mapping[str, Any], owner: str
) -> types.SimpleNamespace:
    """All options with their values, as attributes.

    Args:
        options: The options.
        values: What the user set.
        owner: The protocol, for errors.

    Raises:
        AmodalError: For a value of a wrong type or a missing one.
    """
    complete = {}
    for option in options:
        if option.name in values:
            complete[option.name] = option.check(values[option.name], owner)
        elif option.default is REQUIRED:
            raise AmodalError(f"the protocol {owner} needs the option {option.name}")
        else:
            complete[option.name] = option.default
    return types.SimpleNamespace(**complete)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that an annotation names.

    An annotation that is not understood fits everything.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is None or hint is type(None):
        return value is None
    if hint is Any:
        return True
    if origin is Union or origin is types.UnionType:
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint is bool:
        return isinstance(value, (bool, np.bool_))
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if kind is not str and issubclass(kind, Sequence):
        return _fits_sequence(value, kind, inner)
    return isinstance(value, kind)


def _fits_sequence(value: Any, kind: type, inner: tuple[Any, ...]) -> bool:
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray)):
        return False
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(fits(v, one) for v, one in zip(value, inner))
    return not inner or all(fits(v, inner[0]) for v in value)


def from_text(text: str, hint: Any) -> Any:
    """A value of the command line in a type that an annotation names.

    Lists have commas between their entries. A text that fits no type stays as it is, so that
    `Option.check` can say what is wrong.
    """
    inner = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        # numbers first: every text is a text
        for one in sorted(inner, key=lambda kind: kind is str):
            if fits(value := from_text(text, one), one):
                return value
        return text
    if hint is type(None) and text.lower() == "none":
        return None
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    kind = get_origin(hint) or hint
    if isinstance(kind, type) and kind is not str and issubclass(kind, Sequence):
        entry = inner[0] if inner else str
        return tuple(from_text(part.strip(), entry) for part in text.split(",") if part.strip())
    with contextlib.suppress(ValueError):
        return kind(text) if kind in (int, float) else text
    return text
