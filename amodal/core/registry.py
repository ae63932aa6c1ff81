"""What has a name: the package's own pages, where the path is the name, and plug-ins.

`amodal/methods/redundancy/decur.py` is the method `decur`. An installed distribution adds to them
by entry points:

    [project.entry-points."amodal.modalities"]
    points = "amodal_example.points:Points"

Entry points are read when somebody asks for them, and a plug-in is imported when it is used.
"""

from __future__ import annotations

import importlib
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import amodal
from amodal.errors import AmodalError, unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ROOT = Path(amodal.__file__).parent
KINDS = {
    "methods": "methods",
    "modalities": "modalities",
    "protocols": "evaluate/protocols",
    "backbones": "",
    "datasets": "data/sets",
}
"""Kind of plug-in -> the folder of the package's own pages of that kind, "" where it has none."""

BESIDE = ("contract", "recipes", "saved")
"""Files beside pages that are none."""

log = logging.getLogger("amodal")


@cache
def pages(folder: str) -> dict[str, Path]:
    """name -> file, for every page below `amodal/<folder>`. What pages share lies in folders called
    `shared` and in files that start with `_`; what stands beside the families of methods is no page
    either."""
    files = sorted((ROOT / folder).rglob("*.py"))
    return {file.stem: file for file in files if is_page(file.relative_to(ROOT / folder))}


def is_page(file: Path) -> bool:
    """file: relative to the folder of its kind."""
    return "shared" not in file.parts and not file.stem.startswith("_") and file.stem not in BESIDE


def load(folder: str, name: str, kind: str) -> ModuleType:
    """Import the page called `name` below `amodal/<folder>`.

    Args:
        kind: the word for such a page in the error.

    Raises:
        AmodalError: no page has that name; plug-ins of the folder are among the names it lists.
    """
    name = canonical(name)
    known = pages(folder)
    if name not in known:
        also = next((plugins(k) for k, pages_of in KINDS.items() if pages_of == folder), {})
        raise unknown(kind, name, {*known, *also})
    dotted = ".".join(known[name].relative_to(ROOT).with_suffix("").parts)
    return importlib.import_module(f"amodal.{dotted}")


def canonical(name: str) -> str:
    """`decur-plus` and `decur_plus` are one name."""
    return name.replace("-", "_")


Check = Callable[["Plugin", Any], None]
"""Raises AmodalError where a plug-in's object is not what its kind must be."""


@dataclass
class Plugin:
    """An entry point of an installed distribution.

    Attributes:
        kind: one of `KINDS`.
        name: what users call it.
        distribution: name and version of what brought it.
        entry: where its object is, as "package.module:object".
        failure: the traceback of its import, "" unless that failed.
    """

    kind: str
    name: str
    distribution: str
    entry: EntryPoint
    failure: str = ""
    _loaded: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.name} of {self.distribution} ({self.entry.value})"

    def load(self, check: Check | None = None) -> Any:
        """Its object, imported once.

        Args:
            check: called with the plug-in and the object at the first import.

        Raises:
            AmodalError: its import or the check failed, now or before.
        """
        if self._loaded is None and not self.failure:
            try:
                loaded = self.entry.load()
                if check is not None:
                    check(self, loaded)
                self._loaded = loaded
            except (Exception, SystemExit):  # whatever a stranger's module does
                self.failure = traceback.format_exc()
                log.warning("the plug-in %s is skipped: %s", self, self.reason)
        if self.failure:
            raise AmodalError(
                f"the plug-in {self} cannot be used: {self.reason}. "
                "`amodal doctor` shows the whole traceback."
            )
        return self._loaded

    @property
    def reason(self) -> str:
        """The last line of the traceback, "" where there is none."""
        return self.failure.strip().rpartition("\n")[2]


@dataclass(frozen=True)
class Installed:
    """The plug-ins of one kind.

    Args:
        plugins: name -> plug-in, of names that one plug-in has.
        conflicts: name -> what to do, of names that several have.
    """

    plugins: dict[str, Plugin]
    conflicts: dict[str, str]


@cache
def installed(kind: str) -> Installed:
    """The entry points of the group `amodal.<kind>`. Nothing is imported."""
    from importlib.metadata import entry_points  # takes longer to import than all of this file

    if kind not in KINDS:
        raise unknown("kind of plug-in", kind, KINDS)
    own = pages(KINDS[kind]) if KINDS[kind] else {}
    of_name: dict[str, list[Plugin]] = {}
    for entry in entry_points(group=f"amodal.{kind}"):
        plugin = Plugin(kind, canonical(entry.name), _distribution(entry), entry)
        of_name.setdefault(plugin.name, []).append(plugin)
    found, conflicts = {}, {}
    for name, same in sorted(of_name.items()):
        sources = [plugin.distribution for plugin in same]
        if name in own:
            sources.insert(0, f"amodal {amodal.__version__} itself")
        if len(sources) == 1:
            found[name] = same[0]
        else:
            number = "two" if len(sources) == 2 else str(len(sources))
            conflicts[name] = (
                f"{number} of amodal.{kind} are called {name!r}: "
                f"{', '.join(f'one of {source}' for source in sources)}. "
                "Uninstall all but one, or rename an entry point."
            )
    return Installed(found, conflicts)


def plugins(kind: str) -> dict[str, Plugin]:
    """Name -> plug-in of the entry-point group `amodal.<kind>`, without the names that several
    have. Nothing is imported."""
    return installed(kind).plugins


def find_plugin(kind: str, name: str) -> Plugin | None:
    """The plug-in of this name, None where there is none.

    Raises:
        AmodalError: two have this name, or it is also that of a page of the package's own.
    """
    name = canonical(name)
    if name in installed(kind).conflicts:
        raise AmodalError(installed(kind).conflicts[name])
    return plugins(kind).get(name)


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"


def working(kind: str, check: Check | None = None) -> dict[str, Any]:
    """Name -> object of each plug-in that can be imported; the log names those that cannot."""
    objects = {}
    for name, plugin in plugins(kind).items():
        try:
            objects[name] = plugin.load(check)
        except AmodalError:
            continue
    return objects


def broken_plugins(
    checks: Mapping[str, Check] | None = None, kinds: Iterable[str] = tuple(KINDS)
) -> list[Plugin]:
    """Imports every plug-in of these kinds; those that failed have their traceback as `failure`.

    Args:
        checks: kind -> what its objects must pass.
    """
    broken = []
    for kind in kinds:
        working(kind, (checks or {}).get(kind))
        broken += [plugin for plugin in plugins(kind).values() if plugin.failure]
    return broken
