"""The plug-ins that a run needs, which it stores so that it can say what to install."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import amodal
from amodal.core import AmodalError, AmodalWarning
from amodal.core.part import part_name
from amodal.core.registry import KINDS, canonical, installed, pages
from amodal.nn.backbones.plugin import PluginBackbone

Needed = dict[str, dict[str, str]]
"""Kind of plug-in -> its name -> name and version of the distribution that brings it."""

WORDS = {
    "methods": "method",
    "modalities": "modality",
    "protocols": "protocol",
    "backbones": "backbone",
    "datasets": "data set",
}
"""Kind of plug-in -> what one is called."""


def needed_plugins(spec: Any) -> Needed:
    """The plug-ins of the modalities and backbones in a spec, and in whatever holds specs."""
    needed: Needed = {}
    _collect(spec, needed)
    return needed


def _collect(spec: Any, needed: Needed) -> None:
    if isinstance(spec, list):
        for one in spec:
            _collect(one, needed)
    if not isinstance(spec, dict):
        return
    if isinstance(name := spec.get("modality"), str):
        plugin = installed("modalities").plugins.get(canonical(name))
        if plugin is not None:
            needed.setdefault("modalities", {})[plugin.name] = plugin.distribution
    if spec.get("part") == part_name(PluginBackbone):
        args = spec["args"]
        name = canonical(str(args["name"]).partition(":")[0])
        needed.setdefault("backbones", {})[name] = str(args["source"])
    for below in spec.values():
        _collect(below, needed)


def read_needed(stored: object, file: object) -> Needed:
    """The entry `plugins` of a file, which anybody may have written.

    Args:
        stored: The entry.
        file: It is in, for the message.

    Raises:
        AmodalError: If it is no table of tables of texts, or names a kind that there is not.
    """
    tables: dict[str, Any] = stored if isinstance(stored, dict) else {"": stored}
    for kind, table in tables.items():
        if (
            kind not in KINDS
            or not isinstance(table, dict)
            or not all(isinstance(distribution, str) for distribution in table.values())
        ):
            raise AmodalError(
                f"{file}: plugins must be tables of names and distributions, of the kinds "
                f"{', '.join(KINDS)}; it was changed: restore it from a copy"
            )
    return tables


def check_installed(needed: Mapping[str, Mapping[str, str]]) -> None:
    """Check that the plug-ins of a run are here. It warns of one that another distribution brings.

    Raises:
        AmodalError: For those that are not; the message says what to install.
    """
    missing, distributions = [], []
    for kind, table in needed.items():
        for name, source in table.items():
            distribution = source.partition(" ")[0]
            here = installed(kind)
            if name in here.plugins:
                _warn_of_another(f"{WORDS[kind]} {name}", source, here.plugins[name].distribution)
            elif name in here.shadowed or name in _packaged(kind):
                own = f"amodal {amodal.__version__} itself"
                _warn_of_another(f"{WORDS[kind]} {name}", source, own)
            elif name not in here.conflicts:
                missing.append(f"the {WORDS[kind]} {name} of the plug-in {source}")
                distributions.append(distribution)
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise AmodalError(
            f"this run needs {' and '.join(missing)}, which {verb} not installed here: pip install "
            f"{' '.join(dict.fromkeys(distributions))}"
        )


def _packaged(kind: str) -> Mapping[str, object]:
    return pages(KINDS[kind]) if KINDS[kind] else {}


def _warn_of_another(what: str, then: str, now: str) -> None:
    if then.partition(" ")[0] != now.partition(" ")[0]:
        warnings.warn(
            f"the {what} of this run was of the plug-in {then}, and here it is of {now}",
            AmodalWarning,
            stacklevel=4,
        )
