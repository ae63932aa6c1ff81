"""The values that a user's own code was made with, as text that is the same in every process."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import types
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from torch import Tensor, nn

from amodal.core.source_texts import texts

DEPTH, ITEMS, NUMBERS = 8, 1000, 2**20
"""How far values are followed; of what is deeper, longer or larger the type or the start counts."""
OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that every module has."""


def file_of(definition: Any) -> str:
    """The file of a function or class, "" where that is unknown."""
    try:
        return inspect.getsourcefile(definition) or ""
    except (TypeError, OSError):  # OSError: a class of an interactive session
        return ""


def is_of_user(definition: Any) -> bool:
    """Whether a function or class is neither of amodal nor of an installed package."""
    package = str(getattr(definition, "__module__", None) or "builtins").partition(".")[0]
    parts = Path(file_of(definition)).parts
    installed = {"site-packages", "dist-packages"} & set(parts)
    return package not in ("torch", "amodal", "builtins") and not installed


def described(value: Any, above: tuple[int, ...] = ()) -> str:
    """A value in words that its address and its process do not change.

    Args:
        value: Plain values and arrays count by their content; functions by their source, what they
            capture and what is bound to them; objects of the user's classes by their source and
            attributes; others by what they print, if that says more than where they lie.
        above: Ids of the values that it lies in.
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    name = _name(value if isinstance(value, type) else type(value))
    if len(above) >= DEPTH or id(value) in above:
        return name
    inside = functools.partial(described, above=(*above, id(value)))
    if isinstance(value, enum.Enum):
        return f"{name}.{value.name}"
    if isinstance(value, Mapping):
        pairs = sorted(f"{inside(k)}: {inside(v)}" for k, v in [*value.items()][:ITEMS])
        return f"{name}{{{', '.join(pairs)}}}"
    if isinstance(value, set | frozenset):
        return f"{name}{sorted(map(inside, value))[:ITEMS]}"
    if isinstance(value, list | tuple):
        return f"{name}{[*map(inside, value[:ITEMS])]}"
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return f"{name} {_numbers(value)}"
    if isinstance(value, functools.partial):
        return f"{name} {inside(value.func)} {inside(value.args)} {inside(value.keywords)}"
    if isinstance(value, types.MethodType):
        return f"{name} {inside(value.__func__)} {inside(value.__self__)}"
    if isinstance(value, type) or inspect.isroutine(value):
        return "\n".join(_code(value, inside))
    if isinstance(value, nn.Module):
        parts = [f"{n}: {_name(type(m))}({values_of_layer(m)})" for n, m in value.named_modules()]
        return "\n".join(parts)
    if isinstance(value, PurePath):
        return f"path {value}"
    if is_of_user(type(value)) and texts(type(value)):
        state = {n: v for n, v in _attributes(value)}
        return "\n".join([name, *texts(type(value)), inside(state)])
    return f"{name} {_printed(value)}"


def values_of_layer(layer: nn.Module) -> str:
    """What a layer of torch prints of itself, and the attributes of one of the user's, without
    weights and layers."""
    try:
        printed = layer.extra_repr()
    except Exception:  # the user's own, which nothing here needs
        printed = ""
    if not is_of_user(type(layer)):
        return printed
    own = {n: v for n, v in vars(layer).items() if n not in OF_TORCH}
    return f"{printed}; {described(own)}"


def _code(code: Any, inside: Any) -> Iterator[str]:
    """A function or class: its source, and what was captured where it was made in a function."""
    if not is_of_user(code):
        yield _name(code)
        return
    yield getattr(code, "__qualname__", "")
    yield from texts(code)
    if isinstance(code, type):
        functions = [f for _, f in sorted(vars(code).items()) if inspect.isfunction(f)]
        captured = [_captured(f) for f in functions] if "<locals>" in code.__qualname__ else []
    else:
        captured = [_captured(code)]
    for values in filter(None, captured):
        yield inside(values)


def _captured(function: Any) -> dict[str, Any]:
    """Name -> value that a function captures, and the defaults of one made in a function."""
    code, values = getattr(function, "__code__", None), {}
    for name, cell in zip(code.co_freevars if code else (), function.__closure__ or ()):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    if code and "<" in function.__qualname__:
        defaults = function.__defaults__ or ()
        values |= {f"default {i}": v for i, v in enumerate(defaults)}
        values |= {f"default {n}": v for n, v in (function.__kwdefaults__ or {}).items()}
    return values


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _numbers(value: Any) -> str:
    """Type, shape and content of an array."""
    if isinstance(value, Tensor):
        if value.layout.__str__() != "torch.strided" or value.is_meta:
            return f"{value.dtype} {tuple(value.shape)}"
        value = value.detach().flatten()[:NUMBERS].cpu()
        if value.dtype.itemsize == 2 and value.dtype.is_floating_point:  # numpy has no bfloat16
            value = value.float()
        value = value.numpy()
    array = np.asarray(value)
    if array.dtype.hasobject:
        return f"{array.dtype} {array.shape}"
    content = np.ascontiguousarray(array.reshape(-1)[:NUMBERS]).tobytes()
    return f"{array.dtype} {array.shape} {hashlib.sha256(content).hexdigest()}"


def _printed(value: Any) -> str:
    """What an object prints of itself, unless that is where it lies in memory."""
    try:
        printed = repr(value)
    except Exception:  # of a library; its type has to do
        return ""
    return "" if " at 0x" in printed or "0x" in printed[-20:] else printed[:10_000]


def _name(code: Any) -> str:
    return f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', '')}"
