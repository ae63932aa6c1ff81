"""Objects from outside the package: entry points of installed plug-ins, `package.module:NAME` and
`file.py:NAME`."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from amodal.core import AmodalError, unknown


@cache
def load_plugins(kind: str) -> dict[str, EntryPoint]:
    """Name -> entry point of the group `amodal.KIND`, none of them imported; read once a process.

    Raises AmodalError for two plug-ins of one name.
    """
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"amodal.{kind}"):
        other = points.setdefault(point.name, point)
        if other.value != point.value:
            raise AmodalError(
                f"two plug-ins have {kind} called {point.name!r}: {origin(other)} and {origin(point)}; uninstall one"
            )
    return points


def load_entry_point(point: EntryPoint) -> Any:
    """The object that an entry point names. Raises AmodalError, with the plug-in and the reason, if
    it cannot be imported."""
    try:
        return point.load()
    except Exception as error:  # whatever a plug-in raises on import
        raise AmodalError(
            f"{point.name!r} of the plug-in {origin(point)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def origin(point: EntryPoint) -> str:
    """The distribution and the object of an entry point."""
    name = point.dist.name if point.dist is not None else "an unknown distribution"
    return f"{name} ({point.value})"


def load_object(spec: str) -> Any:
    """The object of `package.module:NAME` or `file.py:NAME`. Raises AmodalError for a file, module
    or name that is not there."""
    where, _, name = spec.rpartition(":")
    module = _from_file(Path(where)) if where.endswith(".py") else _imported(where)
    if not hasattr(module, name):
        raise unknown(
            f"object in {where}", name, [n for n in vars(module) if not n.startswith("_")]
        )
    return getattr(module, name)


def _imported(dotted: str) -> ModuleType:
    try:
        return importlib.import_module(dotted)
    except Exception as error:  # whatever the module raises
        raise AmodalError(f"cannot import {dotted}: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise AmodalError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file raises
        raise AmodalError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module
