"""RUN/config.toml: the settings of a run.

`amodal pretrain --config FILE` trains with the same settings.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import tomlkit

from amodal import methods
from amodal.core import AmodalError, Recipe
from amodal.core.recipe import NAMES, OLD_NAMES, renamed
from amodal.core.references import dotted_name, reference_to
from amodal.core.regular_file import regular
from amodal.core.usual_names import unknown_setting
from amodal.data import Dataset, sets
from amodal.nn.needed_plugins import Needed, check_installed, read_needed
from amodal.train.settings import SETTINGS, Settings

FILE = "config.toml"
ARGUMENTS = ("method", "data", "out")
NOT_WRITTEN = {
    "accept_changed_code",
    "recipe",
    "recipe_fields",
    "resume",
    "adapt",
    "only",
    "callbacks",
    "progress",
}
WRITTEN = tuple(name for name in SETTINGS if name not in NOT_WRITTEN)
OWN_CODE = "own_code"
"""The table of a run's code of the user's own that no reference leads to: it must be passed."""
PLUGINS = "plugins"
"""The table of the plug-ins that a run needs."""
FIELD = "backbone "
"""How entries of `own_code` begin that are no method; the rest is the field."""


def write(
    out: Path,
    method: methods.MethodLike,
    dataset: Dataset,
    settings: Settings,
    recipe: Recipe,
    plugins: Needed,
) -> None:
    """Write RUN/config.toml, unless the run has settings that a command line cannot express.

    Args:
        recipe: The resolved recipe.
        plugins: That the run needs.
    """
    if settings.adapt is not None or settings.only is not None:
        return
    file = out / FILE
    try:
        content = to_toml(method, dataset, settings, recipe, plugins)
        file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise AmodalError(f"could not write {file}: {error.strerror or error}") from error


def to_toml(
    method: methods.MethodLike,
    dataset: Dataset,
    settings: Settings,
    recipe: Recipe,
    plugins: Needed,
) -> str:
    """The text of a config.toml."""
    document = tomlkit.document()
    document.add(tomlkit.comment(f"amodal pretrain --config RUN/{FILE} --out DIR"))
    method, bound, unwritten = _unbound(method)
    named: dict[str, Any] = {
        "method": method,
        **{f"{FIELD}{f}": b for f, b in (settings.backbones or {}).items()},
    }
    references = {what: _reference(code) for what, code in named.items()}
    if references["method"]:
        document["method"] = references["method"]
    if dataset.path is not None:
        path = dataset.path
        document["data"] = str(path.resolve()) if isinstance(path, Path) else str(path)
        if isinstance(path, Path) and (plugin := sets.plugin_of(path)) is not None:
            plugins = plugins | {"datasets": dict([plugin])}
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
        elif field.name == "backbones":
            value = {f: references[f"{FIELD}{f}"] or None for f in value or {}}
        elif field.name == "options":
            value = bound | value
        elif field.name == "init_method":
            value = _reference(value)
        elif field.name == "init_backbones":
            value = {f: _reference(b) or None for f, b in (value or {}).items()}
        elif field.name not in WRITTEN or value in (None, "", {}, ()) or value is False:
            continue
        if value == "":
            continue
        if isinstance(value, dict):
            tables[field.name] = {k: v for k, v in value.items() if v is not None}
        else:
            document[field.name] = str(value) if isinstance(value, Path) else value
    tables[OWN_CODE] = {what: dotted_name(named[what]) for what, r in references.items() if not r}
    if unwritten:
        tables[OWN_CODE]["method"] = f"{dotted_name(named['method'])} with {unwritten}"
    tables[PLUGINS] = {kind: dict(table) for kind, table in plugins.items()}
    for name, table in {**tables, "recipe": recipe.written()}.items():
        if table:
            document[name] = table
    return tomlkit.dumps(document)


def _unbound(method: methods.MethodLike) -> tuple[methods.MethodLike, dict[str, Any], str]:
    """A method, and the arguments that a `functools.partial` binds, as options.

    Returns:
        The method that has these options, which is the same one where a name leads to the partial;
        the options; and what of them no option can say, "" if all is said.
    """
    if not isinstance(method, functools.partial) or reference_to(method):
        return method, {}, ""
    options, bound = methods.options(method.func), dict(method.keywords)
    writable = {n: v for n, v in bound.items() if n in options and v is not None}
    left = {n: v for n, v in bound.items() if n not in writable}
    left = {n: v for n, v in left.items() if n not in options or options[n].default is not None}
    if not left and not method.args:
        return method.func, writable, ""
    said = [*map(repr, method.args), *(f"{n}={v!r}" for n, v in left.items())]
    return method, writable, f"{', '.join(said)} bound by functools.partial"


def _reference(code: Any) -> str:
    """The reference to code, or the name of what is no code; "" where there is none."""
    if code is None:
        return ""
    return absolute(code) if isinstance(code, str) else reference_to(code)


def absolute(reference: str, folder: Path = Path()) -> str:
    """A reference to code in a file, as it reads from any folder; other names as they are.

    Args:
        reference: FILE.py:NAME, or another name.
        folder: That FILE is relative to.
    """
    location, colon, name = reference.rpartition(":")
    in_file = colon and location.endswith(".py")
    return f"{(folder / location).resolve()}:{name}" if in_file else reference


def read(file: str | Path, overridden: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a TOML file of settings.

    Fields of the recipe may be in the table `[recipe]` or beside the other settings. References to
    code in files, FILE.py:NAME, are relative to the folder of the TOML.

    Args:
        file: The TOML.
        overridden: Settings that are used in place of the file's.

    Returns:
        Name -> value: method, data, out, settings and fields of the recipe.

    Raises:
        AmodalError: If the file cannot be read, has an unknown name, or is of a run with a plug-in
            that is not installed, or with code of the user's that is neither named nor passed.
    """
    file = Path(file)
    try:
        content = tomllib.loads(regular(file).read_text(encoding="utf-8"))
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
    needed, own_code = read_needed(content.pop(PLUGINS, {}), file), content.pop(OWN_CODE, {})
    top_level = (*ARGUMENTS, *WRITTEN, *NAMES)
    for table_name, table, names in (("[recipe]", recipe, NAMES), ("", content, top_level)):
        for name in table:
            if name not in names and name not in OLD_NAMES:
                raise unknown_setting(f"setting in {file} {table_name}".rstrip(), name, names)
    _check_plugins(needed, content, overridden or {})
    _check_passed(file, own_code, overridden or {})
    _resolve_references(content, file)
    return renamed(recipe) | renamed(content)


def _check_plugins(
    needed: Needed, content: Mapping[str, Any], overridden: Mapping[str, Any]
) -> None:
    """Raise an AmodalError for plug-ins that the run needs, and that are not installed."""
    replaced = {"methods": "method", "modalities": "data", "datasets": "data"}
    left = {kind: t for kind, t in needed.items() if replaced.get(kind) not in overridden}
    data = content.get("data")
    if data is None or "://" in str(data) or Path(str(data)).exists():
        left.pop("datasets", None)  # it is built, so nothing of the plug-in is needed
    if "backbones" in left:
        names = content.get("backbones", {}) | overridden.get("backbones", {})
        used = {str(spec).partition(":")[0] for spec in names.values()}
        left["backbones"] = {n: d for n, d in left["backbones"].items() if n in used}
    check_installed(left)


def _check_passed(file: Path, own_code: object, overridden: Mapping[str, Any]) -> None:
    """Raise an AmodalError for code of the user's that no file can name, and that is not passed."""
    if not isinstance(own_code, dict):
        raise AmodalError(f"{file}: {OWN_CODE} must be a table, [{OWN_CODE}]; it is {own_code!r}")
    missing = []
    for what, name in own_code.items():
        field = what.removeprefix(FIELD)
        if what == "method" and "method" not in overridden:
            missing.append(f"the method {name} as `amodal pretrain FILE.py:NAME`")
        elif what != "method" and field not in overridden.get("backbones", {}):
            missing.append(f"the backbone {name} as --backbone {field}=FILE.py:NAME")
    if missing:
        raise AmodalError(
            f"the run of {file} was trained with code of your own that no file can name; pass "
            f"{' and '.join(missing)}"
        )


def _resolve_references(content: dict[str, Any], file: Path) -> None:
    """Make references to code in files absolute, in place."""
    folder = file.resolve().parent
    for name in ("method", "init_method"):
        if isinstance(method := content.get(name), str):
            content[name] = absolute(method, folder)
    for name in ("backbones", "init_backbones"):
        table = content.get(name, {})
        if not isinstance(table, dict) or not all(isinstance(b, str) for b in table.values()):
            raise AmodalError(
                f'{file}: {name} must be a table, [{name}], of FIELD = "SPEC"; they are {table!r}'
            )
        if table:
            content[name] = {f: absolute(spec, folder) for f, spec in table.items()}
