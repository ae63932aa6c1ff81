"""The papers, one page each: `amodal/methods/<family>/<name>.py` holds one function of the file's name.

methods.build("decur", encoder, common=0.5)
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from types import ModuleType

from amodal.core.recipe import Recipe
from amodal.core.registry import load, pages
from amodal.errors import AmodalError, unknown

if typing.TYPE_CHECKING:
    from amodal.methods.contract import Method
    from amodal.nn.encoder import Encoder


def names() -> list[str]:
    return sorted(pages("methods"))


def family(name: str) -> str:
    return page(name).__name__.split(".")[-2]


def page(name: str) -> ModuleType:
    return load("methods", name, "method")


def function(name: str) -> Callable[..., Method]:
    module = page(name)
    return getattr(module, module.__name__.rpartition(".")[2])


def options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a method: the keyword arguments of its page."""
    return {n: p for n, p in inspect.signature(function(name)).parameters.items() if p.kind is p.KEYWORD_ONLY}


def encoder_options(name: str) -> dict[str, str]:
    """How the paper's encoder differs from the default one: `trunk`, `pool`, …"""
    return dict(getattr(page(name), "ENCODER", {}))


def recipe(name: str) -> Recipe:
    """How the page trains: its `RECIPE`, or the default one."""
    return getattr(page(name), "RECIPE", None) or Recipe()


def parse(name: str, given: dict[str, object]) -> dict[str, object]:
    """Options as typed values; texts, as a command line gives them, are read by the type in the page's signature."""
    known = options(name)
    for option in given:
        if option not in known:
            raise unknown(f"option of {name}", option, known, f"See `amodal methods {name}`.")
    hints = typing.get_type_hints(function(name))
    return {option: read_option(f"{name}.{option}", value, hints[option]) for option, value in given.items()}


def read_option(what: str, value: object, kind: type) -> object:
    """A value of an option, given as one or as the text of a command line. Raises AmodalError for a wrong type."""
    if not isinstance(value, str) or kind is str:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind):
            raise AmodalError(f"{what} must be a {kind.__name__}, not {value!r}")
        return value
    try:
        return {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise AmodalError(f"{what} must be a {kind.__name__}, not {value!r}") from None


def build(name: str, encoder: Encoder, **given) -> Method:
    """The method on this encoder; unknown options and wrong types are errors that say what there is."""
    return function(name)(encoder, **parse(name, given))
