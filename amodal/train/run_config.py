"""RUN/config.toml.

What a run was asked for, so that `amodal pretrain --config FILE` runs it a second time.
"""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import tomlkit

from amodal import methods
from amodal.core import AmodalError, Recipe, unknown
from amodal.core.recipe import NAMES, OLD_NAMES, renamed
from amodal.data import Dataset
from amodal.train import settings as asking
from amodal.train.settings import Settings

FILE = "config.toml"
OWN = ("method", "data", "out")
LEFT_OUT = {"recipe", "resume", "adapt", "only", "callbacks", "progress"}
WRITTEN = tuple(name for name in asking.SETTINGS if name not in LEFT_OUT)


def write(
    out: Path, method: methods.MethodLike, dataset: Dataset, settings: Settings, recipe: Recipe
) -> None:
    """Write RUN/config.toml, of a run that a command line can ask for. recipe: with all decided."""
    modules = [b for b in (settings.backbones or {}).values() if not isinstance(b, str)]
    if (
        settings.adapt is not None
        or settings.only is not None
        or modules
        or not isinstance(method, str)
    ):
        return
    file = out / FILE
    try:
        file.write_text(written(method, dataset, settings, recipe), encoding="utf-8")
    except OSError as error:
        raise AmodalError(f"could not write {file}: {error.strerror or error}") from error


def written(method: str, dataset: Dataset, settings: Settings, recipe: Recipe) -> str:
    document = tomlkit.document()
    document.add(tomlkit.comment(f"amodal pretrain --config {FILE} --out DIR"))
    document["method"] = method
    if dataset.path is not None:
        path = dataset.path
        document["data"] = str(path.resolve()) if isinstance(path, Path) else str(path)
    else:
        document.add(tomlkit.comment("the data was in memory: --data DIR"))
    tables = {}
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if field.name == "logger":
            value = [logger for logger in value if isinstance(logger, str)]
        elif field.name not in WRITTEN or value in (None, "", {}, ()) or value is False:
            continue
        if isinstance(value, dict):
            tables[field.name] = {k: v for k, v in value.items() if v is not None}
        else:
            document[field.name] = str(value) if isinstance(value, Path) else value
    for name, table in {**tables, "recipe": recipe.written()}.items():
        document[name] = table
    return tomlkit.dumps(document)


def read(file: str | Path) -> dict[str, Any]:
    """Method, data, out and settings of a TOML, fields of the recipe in `[recipe]` or beside the
    others.

    Raises AmodalError for a file that cannot be read and for names that are none of these.
    """
    file = Path(file)
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AmodalError(f"{file} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AmodalError(f"{file} is no TOML: {error}") from error
    recipe = found.pop("recipe", {})
    if not isinstance(recipe, dict):
        raise AmodalError(f"{file}: recipe must be a table, [recipe]; it is {recipe!r}")
    for where, table, names in (("[recipe]", recipe, NAMES), ("", found, (*OWN, *WRITTEN, *NAMES))):
        for name in table:
            if name not in names and name not in OLD_NAMES:
                raise unknown(f"setting in {file} {where}".rstrip(), name, names)
    return renamed(recipe) | renamed(found)
