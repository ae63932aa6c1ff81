"""Parts: modules that record their constructor arguments, so that a saved model can be rebuilt.

A spec is the JSON form of a part. It can name parts of this package and of installed plug-ins only.
Of a plug-in, opening a file imports the modules that its entry points name, and no others.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Self

from torch import nn

from amodal.core.within import within
from amodal.errors import AmodalError

Spec = dict[str, Any]
"""{"part": name, "args": {…}} in JSON. Parts among the arguments are specs themselves."""

PACKAGE = "amodal."
ROOMS = ("nn.", "modalities.")
"""Modules of the package whose classes a spec can name."""
PLUGINS = ("methods", "modalities", "protocols", "backbones", "datasets")
NAME = re.compile(r"[a-z_0-9]+(\.[a-z_0-9]+)+:[A-Z]\w*")


class Part(nn.Module):
    """A module that records its constructor arguments.

    They are captured when it is constructed, so a subclass needs no code for it. Arguments are
    plain values, parts, modalities, and lists and dicts of these. Only arguments that were passed
    are recorded, not defaults.

    Example:
        >>> class Scale(Part):
        ...     def __init__(self, factor: float):
        ...         super().__init__()
        ...         self.factor = factor
        >>> Scale(2.0).spec["args"]
        {'factor': 2.0}
    """

    _args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        # `copy` and `pickle` pass no arguments, and restore `_args` with the rest of the state
        captured = constructor_arguments(cls, self, args, kwargs) if args or kwargs else {}
        # nn.Module.__setattr__ does not work before nn.Module.__init__
        object.__setattr__(self, "_args", captured)
        return self

    @property
    def spec(self) -> Spec:
        """The spec from which `build` makes this part, without its weights."""
        return {
            "part": part_name(type(self)),
            "args": {k: to_spec(v) for k, v in self._args.items()},
        }

    @property
    def recorded_args(self) -> Mapping[str, Any]:
        """Name -> value of the arguments in `spec`."""
        return self._args

    def describe_as(self, **changes: Any) -> None:
        """Change the recorded arguments, for parts that are extended after construction."""
        object.__setattr__(self, "_args", self._args | changes)

    @classmethod
    def read_args(cls, args: Mapping[str, Any]) -> dict[str, Any]:
        """A spec's arguments as values; to override where a part is told its place among them."""
        return {k: from_spec(v) for k, v in args.items()}

    @classmethod
    def from_args(cls, **args: Any) -> Part:
        """Build the part of a spec's arguments; to override where the constructor takes others."""
        return cls(**args)


def constructor_arguments(
    cls: type, instance: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Name -> value of the arguments of a constructor call; those of `**kwargs` by their own names.

    Raises:
        TypeError: If the arguments do not fit the constructor, or it takes `*args`, which have no
            names.
    """
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]  # of a class, not an instance
    bound = signature.bind(instance, *args, **kwargs)
    receiver = next(iter(signature.parameters))  # usually `self`
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            raise TypeError(f"{cls.__qualname__} takes *{name}; a Part names all its arguments")
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif name != receiver:
            named[name] = value
    return named


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
    """Let specs hold another type of value, such as modalities.

    Args:
        is_value, write: Whether a value is of this type, and its JSON form.
        is_written, read: Whether JSON is of this form, and the value of it.
    """
    _codecs.append((is_value, write, is_written, read))


def to_spec(value: Any) -> Any:
    """The JSON form of a constructor argument.

    Raises:
        AmodalError: If it has none.
    """
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
        f"{type(value).__name__} cannot be written into the spec of a model. Give plain values, "
        "modalities or parts (subclasses of amodal.core.part.Part)."
    )


def from_spec(data: Any) -> Any:
    """The inverse of `to_spec`.

    Raises:
        AmodalError: For parts that are neither of the package nor of an installed plug-in.
    """
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
    """Build the part of a spec, with fresh weights.

    Raises:
        AmodalError: As `part_class` and `from_spec`.
    """
    kind = part_class(spec["part"])
    return kind.from_args(**kind.read_args(spec["args"]))


def part_name(kind: type) -> str:
    """The name of a class in specs: `nn.pooling:ClsPool`, `package.module:Class` of plug-ins."""
    return f"{kind.__module__.removeprefix(PACKAGE)}:{kind.__qualname__}"


def part_class(name: str) -> type[Part]:
    """The class that a spec names.

    Raises:
        AmodalError: If it is neither a part of this package nor of an installed plug-in, or in a
            module that the plug-in's entry points do not import. The module is not imported then.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise AmodalError(
            f"{name!r} is no name of a part; expected MODULE:CLASS, such as nn.encoder:Encoder"
        )
    module, _, kind = name.partition(":")
    try:
        if module.startswith(ROOMS):
            holds = importlib.import_module(PACKAGE + module)
        else:
            holds = _plugin_module(module, name)
    except ImportError as e:
        raise _not_found(name, str(e)) from e
    # not getattr: a module's own `__getattr__` may import what the file names
    cls = vars(holds).get(kind)
    if cls is None:
        raise _not_found(name, f"{holds.__name__} has no {kind}")
    if not (isinstance(cls, type) and issubclass(cls, Part)):
        raise AmodalError(f"{name!r} is not a part of models")
    return cls


def _plugin_module(module: str, name: str) -> ModuleType:
    """A module that an entry point names, or that those of its package import.

    Raises:
        AmodalError: For other modules, which a file must not make anybody import.
        ImportError: If a module that an entry point names cannot be imported.
    """
    package = module.partition(".")[0]
    named = {m for m in plugin_modules() if m.partition(".")[0] == package}
    if not named:
        raise AmodalError(
            f"this model has the part {name!r}, which is neither of amodal nor of an installed "
            f"plug-in. Install the package {package!r} that it came from."
        )
    if module in named:
        return importlib.import_module(module)
    for entry in sorted(named):
        importlib.import_module(entry)
    if module not in sys.modules:
        raise AmodalError(
            f"this model has the part {name!r}, in a module that the plug-in {package!r} does not "
            f"import from its entry points ({', '.join(sorted(named))}). If you trust the file, "
            f"import {module} before you open it."
        )
    return sys.modules[module]


def _not_found(name: str, why: str) -> AmodalError:
    return AmodalError(f"this model has the part {name!r}, which cannot be found here ({why})")


def plugin_modules() -> set[str]:
    """The modules that the entry points of `amodal.methods`, `amodal.backbones`, … name."""
    from importlib.metadata import entry_points

    groups = (entry_points(group=f"amodal.{kind}") for kind in PLUGINS)
    return {entry.module for group in groups for entry in group}


_supplied: ContextVar[Mapping[str, Any] | None] = ContextVar("supplied", default=None)


@contextmanager
def supplied(things: Mapping[str, Any]) -> Iterator[None]:
    """Within it, `take` returns objects that no file can name, such as a user's own modules."""
    with within(_supplied, {**(_supplied.get() or {}), **things}):
        yield


def supplies() -> Mapping[str, Any]:
    """All objects that the callers of `supplied` supply, by name."""
    return _supplied.get() or {}


def take(name: str, what: str, pass_it: str) -> Any:
    """The object that the caller supplied under a name.

    Args:
        what: Describes it in the error.
        pass_it: How to pass it, for the error.

    Raises:
        AmodalError: If it was not supplied.
    """
    things = supplies()
    if name not in things:
        raise AmodalError(
            f"this model was made with {what}, which is not stored in the file; {pass_it}"
        )
    return things[name]
