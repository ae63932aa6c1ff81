"""Modules that know how they were made, so that what is saved can be built again."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from amodal.errors import AmodalError

Spec = dict[str, Any]
"""{"part": name, "args": {…}}, JSON-able; parts among the arguments are specs themselves."""

PACKAGE = "amodal."
ROOMS = ("nn.", "modalities.")
"""Where the package's own parts live: a spec can name nothing else."""
PLUGINS = ("methods", "modalities", "protocols", "backbones", "datasets")
NAME = re.compile(r"[a-z_0-9]+(\.[a-z_0-9]+)+:[A-Z]\w*")


class Part(nn.Module):
    """A module whose constructor arguments are its description.

    They are captured when it is made, so a subclass writes nothing down. Arguments are JSON-able
    values, parts, modalities, and lists and dicts of these.
    """

    _args: dict[str, Any]

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        if args or kwargs:  # a copy is made without, and gets the state of the original
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs).arguments
            named = {k: v for k, v in bound.items() if k not in ("self", "kwargs")}
            object.__setattr__(self, "_args", named | bound.get("kwargs", {}))
        else:
            object.__setattr__(self, "_args", {})
        return self

    @property
    def spec(self) -> Spec:
        """What `build` makes this part of again, without its weights."""
        return {
            "part": part_name(type(self)),
            "args": {k: to_spec(v) for k, v in self._args.items()},
        }

    def describe_as(self, **changes: Any) -> None:
        """Other arguments make this part from now on: for parts that are extended after they were
        made."""
        object.__setattr__(self, "_args", self._args | changes)

    @classmethod
    def from_args(cls, **args: Any) -> Part:
        """The part that these arguments describe; for those that are not built by their
        constructor."""
        return cls(**args)


Codec = tuple[
    Callable[[Any], bool], Callable[[Any], Any], Callable[[Any], bool], Callable[[Any], Any]
]
_codecs: list[Codec] = []


def register_codec(
    is_value: Callable[[Any], bool],
    write: Callable[[Any], Any],
    is_written: Callable[[Any], bool],
    read: Callable[[Any], Any],
) -> None:
    """Let specs hold another kind of value, such as modalities."""
    _codecs.append((is_value, write, is_written, read))


def to_spec(value: Any) -> Any:
    """A constructor argument as JSON-able data. Raises AmodalError for what cannot be written down."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Part):
        return value.spec
    for is_value, write, *_ in _codecs:
        if is_value(value):
            return write(value)
    if isinstance(value, Mapping):
        return {str(k): to_spec(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_spec(v) for v in value]
    raise AmodalError(
        f"{type(value).__name__} cannot be written into the description of a model. Give plain values, modalities or parts "
        "(subclasses of amodal.core.part.Part)."
    )


def from_spec(data: Any) -> Any:
    """What `to_spec` wrote, built again. Raises AmodalError for parts that are not the package's or
    an installed plug-in's."""
    if isinstance(data, list):
        return [from_spec(v) for v in data]
    if not isinstance(data, dict):
        return data
    if data.keys() == {"part", "args"} and isinstance(data["part"], str):
        return build(data)
    for *_, is_written, read in _codecs:
        if is_written(data):
            return read(data)
    return {k: from_spec(v) for k, v in data.items()}


def build(spec: Spec) -> Part:
    """The part of a spec, with fresh weights. Raises AmodalError."""
    kind = part_class(spec["part"])
    return kind.from_args(**{k: from_spec(v) for k, v in spec["args"].items()})


def part_name(kind: type) -> str:
    """The name of a class of parts in specs: `nn.pooling:ClsPool` for the package's own,
    `package.module:Class` for others."""
    return f"{kind.__module__.removeprefix(PACKAGE)}:{kind.__qualname__}"


def part_class(name: str) -> type[Part]:
    """The class that a spec names.

    Raises:
        AmodalError: If the name is neither of a part of this package nor of one of an installed
        plug-in. Nothing is imported then.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise AmodalError(
            f"{name!r} is no name of a part; expected MODULE:CLASS, such as nn.encoder:Encoder"
        )
    module, _, kind = name.partition(":")
    if module.startswith(ROOMS):
        module = PACKAGE + module
    elif module.partition(".")[0] not in plugin_packages():
        raise AmodalError(
            f"this model has the part {name!r}, which is not one of amodal and of no plug-in that is installed here. Install the "
            f"package {module.partition('.')[0]!r} that it came from."
        )
    try:
        found = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as e:
        raise AmodalError(
            f"this model has the part {name!r}, which cannot be found here ({e})"
        ) from e
    if not (isinstance(found, type) and issubclass(found, Part)):
        raise AmodalError(f"{name!r} is not a part of models")
    return found


def plugin_packages() -> set[str]:
    """The packages of installed entry points of ours: `amodal.methods`, `amodal.backbones`, …"""
    from importlib.metadata import entry_points

    groups = (entry_points(group=f"amodal.{kind}") for kind in PLUGINS)
    return {entry.module.partition(".")[0] for group in groups for entry in group}


_supplied: ContextVar[Mapping[str, Any] | None] = ContextVar("supplied", default=None)


@contextmanager
def supplied(things: Mapping[str, Any]) -> Iterator[None]:
    """Within it, `take` finds modules and functions that no file can name: what a caller passes to
    `load`."""
    before = _supplied.set({**(_supplied.get() or {}), **things})
    try:
        yield
    finally:
        _supplied.reset(before)


def take(name: str, what: str, pass_it: str) -> Any:
    """The thing that the caller supplied under a name. Raises AmodalError that says how to pass it."""
    things = _supplied.get() or {}
    if name not in things:
        raise AmodalError(
            f"this model was made with {what}, which no file can bring along; {pass_it}"
        )
    return things[name]
