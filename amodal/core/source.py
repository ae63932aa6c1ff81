"""Code that users bring along: functions and classes by reference, and what says whether it is
still the same."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from amodal.errors import AmodalError, unknown


def source_hash(thing: Any) -> str:
    """The sha256 of the source text of a function or class; "" where there is none, as for what was
    typed at a prompt."""
    try:
        return hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()
    except (OSError, TypeError):
        return ""


def dotted_name(thing: Any) -> str:
    """`package.module:Name` of a function or class."""
    return f"{thing.__module__}:{thing.__qualname__}"


def is_reference(text: str) -> bool:
    """Whether a text names code, as `package.module:name` or `file.py:name`, and not a page."""
    return ":" in text


def load_reference(text: str) -> Any:
    """What `package.module:name` or `file.py:name` names. The code runs: give only what you trust.

    Raises:
        AmodalError: If there is no such file, module or name, or if the code raises.
    """
    place, _, name = text.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise unknown(f"name in {place}", name, public)
    return getattr(module, name)


def _from_file(file: Path) -> Any:
    if not file.exists():
        raise AmodalError(
            f"there is no file {file}; a method of your own is given as FILE.py:FUNCTION"
        )
    known = f"_amodal_user_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, file)
    assert spec is not None and spec.loader is not None, "the name ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[known]
        raise AmodalError(f"{file} cannot be run: {type(e).__name__}: {e}") from e
    return module


def _from_package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as e:
        raise AmodalError(
            f"the module {name!r} cannot be imported ({type(e).__name__}: {e}); code of your own is given as PACKAGE.MODULE:NAME or "
            "FILE.py:NAME"
        ) from e
