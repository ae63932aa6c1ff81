"""RUN/config.toml: the settings of a run.

`amodal pretrain --config FILE` trains with the same settings.
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
from amodal.train.settings import SETTINGS, Settings

FILE = "config.toml"
ARGUMENTS = ("method", "data", "out")
NOT_WRITTEN = {"recipe", "recipe_fields", "resume", "adapt", "only", "callbacks", "progress"}
WRITTEN = tuple(name for name in SETTINGS if name not in NOT_WRITTEN)


def write(
    out: Path, method: methods.MethodLike, dataset: Dataset, settings: Settings, recipe: Recipe
) -> None:
    """Write RUN/config.toml, unless the run has settings that a command line cannot express.

    Args:
        recipe: The resolved recipe.
    """
    modules = [b for b in (settings.backbones or {}).values() if not isinstance(b, str)]
    adapts = settings.adapt is not None or settings.only is not None
    if adapts or modules or not isinstance(method, str):
        return
    file = out / FILE
    try:
        file.write_text(to_toml(method, dataset, settings, recipe), encoding="utf-8")
    except OSError as error:
        raise AmodalError(f"could not write {file}: {error.strerror or error}") from error


def to_toml(method: str, dataset: Dataset, settings: Settings, recipe: Recipe) -> str:
    """The text of a config.toml."""
    document = tomlkit.document()
    document.add(tomlkit.comment(f"amodal pretrain --config RUN/{FILE} --out DIR"))
    document["method"] = absolute(method)
    if dataset.path is not None:
        path = dataset.path
        document["data"] = str(path.resolve()) if isinstance(path, Path) else str(path)
    else:
        document.add(tomlkit.comment("the data was in memory: --data DIR"))
    if settings.callbacks or not all(isinstance(logger, str) for logger in settings.loggers):
        document.add(tomlkit.comment("callbacks, and loggers that are code, are not in this file"))
    tables: dict[str, dict[str, object]] = {}
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if field.name == "logger":
            # callables cannot be written; an empty list says that there is no logger
            value = [logger for logger in settings.loggers if isinstance(logger, str)]
        elif field.name not in WRITTEN or value in (None, "", {}, ()) or value is False:
            continue
        if isinstance(value, dict):
            tables[field.name] = {k: v for k, v in value.items() if v is not None}
        else:
            document[field.name] = str(value) if isinstance(value, Path) else value
    for name, table in {**tables, "recipe": recipe.written()}.items():
        document[name] = table
    return tomlkit.dumps(document)


def absolute(method: str) -> str:
    """A reference to code in a file, as it reads from any folder; other methods as they are."""
    location, colon, name = method.rpartition(":")
    return f"{Path(location).resolve()}:{name}" if colon and location.endswith(".py") else method


def read(file: str | Path) -> dict[str, Any]:
    """Read a TOML file of settings.

    Fields of the recipe may be in the table `[recipe]` or beside the other settings.

    Returns:
        Name -> value: method, data, out, settings and fields of the recipe.

    Raises:
        AmodalError: If the file cannot be read, or has an unknown name.
    """
    file = Path(file)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AmodalError(f"{file} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AmodalError(f"{file} is no TOML: {error}") from error
    recipe = content.pop("recipe", {})
    if not isinstance(recipe, dict):
        raise AmodalError(f"{file}: recipe must be a table, [recipe]; it is {recipe!r}")
    if Recipe().written().keys() <= recipe.keys():
        # that of a run, and complete: nothing of a recipe that is chosen today may be added
        content.setdefault("recipe_from", "plain")
    top_level = (*ARGUMENTS, *WRITTEN, *NAMES)
    for table_name, table, names in (("[recipe]", recipe, NAMES), ("", content, top_level)):
        for name in table:
            if name not in names and name not in OLD_NAMES:
                raise unknown(f"setting in {file} {table_name}".rstrip(), name, names)
    return renamed(recipe) | renamed(content)
