"""Public data sets, one a page: the packages that hold it, its licence, and how it becomes records.

The path is the name: `amodal/data/sets/watch.py` is the set `watch`. Its docstring is the title and
the data card; what else a page has is in `Page`. A set is built once, into the cache; delete its
folder to build it again.

An installed distribution adds sets by entry points, each a module or an object with what a `Page`
has:

    [project.entry-points."amodal.datasets"]
    shapes = "amodal_example.shapes"
"""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from amodal.core import AmodalError, registry, unknown
from amodal.core.registry import Plugin, canonical
from amodal.core.user_code import call_mistake
from amodal.data import fetch as packages
from amodal.data.fetch import Package

BUILD_INFO = "fetched.json"
"""Beside dataset.toml: what the set was built from."""

Say = Callable[[str], object]
"""Takes the lines about progress."""


class Page(Protocol):
    """What a page has, beside its docstring and, where it is known, RECORDS: int.

    Attributes:
        PACKAGES: to download; () for a set that is generated.
        LICENCE: of the records.
    """

    PACKAGES: Sequence[Package]
    LICENCE: str

    def write(self, out: Path, archives: list[Path]) -> None:
        """Write dataset.toml and the records into the empty folder `out`.

        Args:
            out: the folder.
            archives: the downloaded files, one for each of PACKAGES.
        """


def names() -> list[str]:
    """The public sets that there are: the package's own, then those of plug-ins, also names
    that several have, which are an error when they are opened."""
    found = registry.installed("datasets")
    return [
        *dict.fromkeys([*sorted(registry.pages("data/sets")), *found.plugins, *found.conflicts])
    ]


def page(name: str) -> Page:
    """The page of a set.

    Raises:
        AmodalError: no set has that name (with the nearest one), or its plug-in is broken.
    """
    plugin = registry.find_plugin("datasets", name)
    if plugin is not None:
        return cast(Page, plugin.load(check_plugin))
    known = names()
    if canonical(name) not in known:
        check_not_gone(name)
        hint = f"{registry.not_installed('datasets', name)} {_claims_hint()}".strip()
        raise unknown("public set", name, known, hint)
    return cast(Page, registry.load("data/sets", name, "public set"))


def check_plugin(plugin: Plugin, loaded: Any) -> None:
    """Check the object of an entry point of a data set.

    Args:
        plugin: the entry point.
        loaded: its object.

    Raises:
        AmodalError: the object is no page of a set.
    """
    problem, write = "", getattr(loaded, "write", None)
    if not callable(write) or call_mistake(write, "out", "archives"):
        problem = "a function write(out, archives)"
    elif not isinstance(getattr(loaded, "LICENCE", None), str):
        problem = "LICENCE, a text"
    elif not _is_packages(getattr(loaded, "PACKAGES", None)):
        problem = "PACKAGES, a tuple of amodal.data.fetch.Package (or empty)"
    elif not inspect.getdoc(loaded):
        problem = "a docstring, the first line of which is the title"
    if problem:
        raise AmodalError(f"{plugin.entry.value} is no data set: it lacks {problem}")


def folder_of(name: str) -> Path:
    """The folder in the cache that a set is built into, whether it is built or not."""
    name = canonical(name)
    plugin = registry.find_plugin("datasets", name)
    if plugin is None:
        return packages.cache() / "sets" / name
    # Below the name of the distribution: after another plug-in with a set of this name has been
    # installed instead, the records of the former one must not be taken for its own.
    distribution = plugin.entry.dist.name if plugin.entry.dist else "unnamed"
    return packages.cache() / "plugins" / distribution / name


def plugin_of(path: Path) -> tuple[str, str] | None:
    """The set and the distribution of a plug-in whose built set is in this folder of the cache."""
    folder = packages.cache() / "plugins"
    inside = path.relative_to(folder).parts if path.is_relative_to(folder) else ()
    return (inside[1], inside[0]) if len(inside) > 1 else None


def check_not_gone(name: str) -> None:
    """Check that a name, or a folder that is not there, is of no set whose plug-in is gone.

    Args:
        name: What was asked for as data.

    Raises:
        AmodalError: It is; or its plug-in is here, and the set is not built.
    """
    from_cache = plugin_of(Path(name))
    built = [] if from_cache else sorted((packages.cache() / "plugins").glob("*/*"))
    found = (
        [from_cache] if from_cache else [plugin_of(p) for p in built if p.name == canonical(name)]
    )
    for one in filter(None, found):
        title_of_set, distribution = one
        if registry.find_plugin("datasets", title_of_set) is not None:
            raise not_built_error(title_of_set)
        raise AmodalError(
            f"{name} is the data set {title_of_set} of the plug-in {distribution}, which is not "
            f"installed here: pip install {distribution}"
        )


def is_built(name: str) -> bool:
    """Whether a set is in the cache."""
    return (folder_of(name) / BUILD_INFO).exists()


def fetch(
    name: str, *, out: str | Path | None = None, any_version: bool = False, say: Say = print
) -> Path:
    """Build a set, unless that has been done.

    Args:
        name: of the set.
        out: the folder to build it in, instead of the cache.
        any_version: take packages of another version or checksum; counts of records may differ.
        say: takes the lines about progress.

    Returns:
        The folder of the set.

    Raises:
        AmodalError: there is no such set, a package cannot be downloaded, or the folder holds
            something else.
    """
    source, name = page(name), canonical(name)
    folder = folder_of(name) if out is None else Path(out)
    if (folder / BUILD_INFO).exists():
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AmodalError(
            f"{folder} exists and is not the set {name!r}. Delete it, or choose another folder."
        )
    archives = [packages.download(p, any_version=any_version, say=say) for p in source.PACKAGES]
    say(f"building {name}: {title(source)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as draft:
        built = Path(draft) / name
        built.mkdir()
        source.write(built, archives)
        _finish(built, source, archives, any_version)
        try:
            os.replace(built, folder)
        except OSError:
            if not (folder / BUILD_INFO).exists():  # else another process was quicker
                raise
    say(f"{folder}: licence {source.LICENCE}")
    return folder


def ensure(data: str, say: Say = print) -> None:
    """Build a set unless it is in the cache.

    Args:
        data: as a user names data; a path that exists is left alone.
        say: takes the lines about progress.
    """
    if not Path(data).exists() and data in names() and not is_built(data):
        fetch(data, say=say)


def not_built_error(name: str) -> AmodalError:
    """The error for a set that was asked for and is not in the cache."""
    source = page(name)
    about = f"{title(source)}; {cost(source)}, {source.LICENCE}"
    return AmodalError(
        f"{name!r} is a public set that is not here yet ({about}). Get it with: amodal data {name}"
    )


def listing() -> RenderableType:
    """A table of all sets; below it the plug-ins that cannot be imported, and why."""
    table = Table(caption="amodal data NAME gets one", caption_justify="left")
    for column in ("set", "what it holds", "records", "size", "licence", "here"):
        table.add_column(
            column, justify="right" if column in ("records", "size") else "left", overflow="fold"
        )
    broken = []
    for name in names():
        try:
            source = page(name)
        except AmodalError as error:  # of a plug-in; the others can still be listed
            broken.append(Text(f"skipped: {error}", "yellow"))
            continue
        count = records_of(source) or (build_info(name)["records"] if is_built(name) else None)
        table.add_row(
            name,
            title(source),
            f"{count:,}" if count else "?",
            cost(source),
            source.LICENCE,
            "yes" if is_built(name) else "no",
        )
    return Group(table, *broken)


def title(source: Page) -> str:
    """The first line of a page's docstring."""
    return (inspect.getdoc(source) or "").partition("\n")[0].rstrip(".")


def cost(source: Page) -> str:
    """What has to be downloaded, as a text: "12 MB"; "generated" for nothing."""
    if not source.PACKAGES:
        return "generated"
    megabytes = sum(package.megabytes for package in source.PACKAGES)
    return f"{megabytes:.0f} MB" if megabytes >= 1 else f"{megabytes:.1f} MB"


def records_of(source: Page) -> int | None:
    """How many records a page promises, None where it does not say."""
    count = getattr(source, "RECORDS", None)
    return None if count is None else int(count)


def build_info(name: str) -> dict[str, Any]:
    """What a set was built from: its records, licence and packages."""
    return dict(json.loads((folder_of(name) / BUILD_INFO).read_text(encoding="utf-8")))


def _claims_hint() -> str:
    """Where sets are that the ledger and its documentation name, if they are not installed."""
    plugins = registry.installed("datasets").plugins.values()
    brought = {plugin.entry.dist.name for plugin in plugins if plugin.entry.dist}
    if "amodal-claims" in brought:
        return ""
    return "Sets of claims come with amodal-claims (in a checkout: pip install ./claims)."


def _is_packages(value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(p, Package) for p in value)


def _finish(built: Path, source: Page, archives: list[Path], any_version: bool) -> None:
    """Open what was written, which proves that it opens; complete dataset.toml with what was
    measured, so that it is not measured again; write down where the set comes from."""
    from amodal.data import open_dataset, schema
    from amodal.data.sets.shared.card import card

    toml = built / "dataset.toml"
    dataset = open_dataset.from_toml(toml)
    expected = records_of(source)
    if expected is not None and len(dataset) != expected and not any_version:
        raise AmodalError(
            f"{dataset.name} has {len(dataset):,} records, not {expected:,} as it should"
        )
    toml.write_text(schema.dumps(dataset.schema), encoding="utf-8")
    if not (built / "README.md").exists():
        (built / "README.md").write_text(card(dataset, source), encoding="utf-8")
    built_from = [
        {"registry": p.registry, "name": p.name, "file": a.name, "sha256": packages.sha256(a)}
        for p, a in zip(source.PACKAGES, archives)
    ]
    written = {
        "set": dataset.name,
        "records": len(dataset),
        "licence": source.LICENCE,
        "packages": built_from,
    }
    (built / BUILD_INFO).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
