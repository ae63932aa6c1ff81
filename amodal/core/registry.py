"""The path is the name: `amodal/methods/redundancy/decur.py` is the method `decur`. No registry, no decorators."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

import amodal
from amodal.errors import unknown

ROOT = Path(amodal.__file__).parent


@cache
def pages(folder: str) -> dict[str, Path]:
    """name -> file, for every page below `amodal/<folder>`. What pages share lies in folders called `shared` and in files that start
    with `_`; the contract of methods is no page either."""
    files = sorted((ROOT / folder).rglob("*.py"))
    return {file.stem: file for file in files if is_page(file.relative_to(ROOT / folder))}


def is_page(file: Path) -> bool:
    """file: relative to the folder of its kind."""
    return "shared" not in file.parts and not file.stem.startswith("_") and file.stem != "contract"


def load(folder: str, name: str, kind: str) -> ModuleType:
    """Import the page called `name` below `amodal/<folder>`; `kind` is the word for it in the error."""
    name = name.replace("-", "_")
    known = pages(folder)
    if name not in known:
        raise unknown(kind, name, known)
    dotted = ".".join(known[name].relative_to(ROOT).with_suffix("").parts)
    return importlib.import_module(f"amodal.{dotted}")
