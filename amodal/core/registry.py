"""What has a name: the package's own pages, where the path is the name, and plug-ins.

`amodal/methods/redundancy/decur.py` is the method `decur`. An installed distribution adds to them
by entry points:

    [project.entry-points."amodal.modalities"]
    points = "amodal_example.points:Points"

Entry points are read when somebody asks for them, and a plug-in is imported when it is used. One
rule for names holds for all kinds: of a plug-in and something of the package's own, the package's
own is used; two plug-ins of one name are an error where the name is asked for.
"""

from __future__ import annotations

import importlib
import logging
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import amodal
from amodal.core.argument_types import check_type, is_word
from amodal.errors import AmodalError, AmodalWarning, unknown

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

_reserved: dict[str, set[str]] = {}
"""Kind -> names of the package's own that are no pages. See `reserve`."""

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
        group = next((k for k, pages_of in KINDS.items() if pages_of == folder), "")
        also, hint = (plugins(group), not_installed(group, name)) if group else ({}, "")
        raise unknown(kind, name, {*known, *also}, hint)
    dotted = ".".join(known[name].relative_to(ROOT).with_suffix("").parts)
    return importlib.import_module(f"amodal.{dotted}")


def not_installed(kind: str, name: str) -> str:
    """What to do about an unknown name that may be that of a plug-in: a sentence for errors."""
    return (
        f"If {name!r} is of a plug-in, install the distribution that has it among its entry points "
        f"(amodal.{kind})."
    )


def canonical(name: str) -> str:
    """`decur-plus` and `decur_plus` are one name.

    Raises:
        AmodalError: it is no text.
    """
    check_type("a name", name, is_word, "a text")
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
        failure: the traceback of its import, or what is wrong with its object; "" for neither.
        reported: whether the log says that it is skipped.
    """

    kind: str
    name: str
    distribution: str
    entry: EntryPoint
    failure: str = ""
    _loaded: Any = field(default=None, repr=False)
    _checked: bool = field(default=False, repr=False)
    reported: bool = field(default=False, repr=False)

    def __str__(self) -> str:
        return f"{self.name} of {self.distribution} ({self.entry.value})"

    def load(self, check: Check | None = None) -> Any:
        """Its object, imported once.

        Args:
            check: called with the plug-in and the object, once.

        Raises:
            AmodalError: its import or the check failed, now or before.
        """
        if not self.failure:
            try:
                if self._loaded is None:
                    self._loaded = self.entry.load()
                if check is not None and not self._checked:
                    check(self, self._loaded)
                    self._checked = True
            except KeyboardInterrupt:
                raise
            except AmodalError as error:  # a sentence of ours, which needs no traceback
                self.failure = str(error).rstrip(".")
            except BaseException:  # whatever a stranger's module does, also sys.exit
                self.failure = traceback.format_exc()
        if self.failure:
            whole = " `amodal doctor` shows the whole traceback."
            raise AmodalError(
                f"the plug-in {self} cannot be used: {self.reason}."
                f"{whole if self.reason != self.failure else ''}"
            )
        return self._loaded

    def report(self) -> None:
        """Say in the log, once, that it is skipped."""
        if not self.reported:
            self.reported = True
            log.warning("the plug-in %s is skipped: %s", self, self.reason)

    @property
    def reason(self) -> str:
        """What is wrong with it, in a line; "" where nothing is."""
        return self.failure.strip().rpartition("\n")[2]


@dataclass(frozen=True)
class Installed:
    """The plug-ins of one kind.

    Args:
        plugins: name -> plug-in, of names that one plug-in has.
        conflicts: name -> what to do, of names that several plug-ins have.
        shadowed: name -> what to do, of names that are also the package's own.
        warned: the names of `shadowed` that were asked for.
    """

    plugins: dict[str, Plugin]
    conflicts: dict[str, str]
    shadowed: dict[str, str]
    warned: set[str] = field(default_factory=set)


def reserve(kind: str, names: Iterable[str]) -> None:
    """Say which names of a kind are the package's own beside those of its pages."""
    _reserved.setdefault(kind, set()).update(map(canonical, names))
    installed.cache_clear()


@cache
def installed(kind: str) -> Installed:
    """The entry points of the group `amodal.<kind>`. Nothing is imported."""
    from importlib.metadata import entry_points  # takes longer to import than all of this file

    if kind not in KINDS:
        raise unknown("kind of plug-in", kind, KINDS)
    own = {*(pages(KINDS[kind]) if KINDS[kind] else ()), *_reserved.get(kind, ())}
    of_name: dict[str, list[Plugin]] = {}
    for entry in entry_points(group=f"amodal.{kind}"):
        plugin = Plugin(kind, canonical(entry.name), _distribution(entry), entry)
        of_name.setdefault(plugin.name, []).append(plugin)
    found, conflicts, shadowed = {}, {}, {}
    for name, same in sorted(of_name.items()):
        if name in own:
            others = ", ".join(f"not {p.entry.value} of {p.distribution}" for p in same)
            shadowed[name] = (
                f"{name!r} of amodal.{kind} is amodal's own, {others}. Rename the entry point, or "
                "uninstall it."
            )
        elif len(same) == 1:
            found[name] = same[0]
        else:
            number = "two" if len(same) == 2 else str(len(same))
            listed = " and ".join(f"{p.entry.value} of {p.distribution}" for p in same)
            conflicts[name] = (
                f"{number} of amodal.{kind} are called {name!r}: {listed}. "
                "Uninstall all but one, or rename an entry point."
            )
    return Installed(found, conflicts, shadowed)


def plugins(kind: str) -> dict[str, Plugin]:
    """Name -> plug-in of the entry-point group `amodal.<kind>`, without the names that several
    or the package's own have. Nothing is imported."""
    return installed(kind).plugins


def find_plugin(kind: str, name: str) -> Plugin | None:
    """The plug-in of this name, None where there is none or the name is the package's own.

    The first time that a name is asked for which both have, a warning says whose is used.

    Raises:
        AmodalError: two plug-ins have this name.
    """
    name, found = canonical(name), installed(kind)
    if name in found.shadowed and name not in found.warned:
        found.warned.add(name)
        warnings.warn(found.shadowed[name], AmodalWarning, stacklevel=3)
    if name in found.conflicts:
        raise AmodalError(found.conflicts[name])
    return found.plugins.get(name)


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"


def working(kind: str, check: Check | None = None) -> dict[str, Any]:
    """Name -> object of each plug-in that can be imported; the log names those that cannot."""
    objects = {}
    for name, plugin in plugins(kind).items():
        try:
            objects[name] = plugin.load(check)
        except AmodalError:
            plugin.report()
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
