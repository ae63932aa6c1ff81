"""All protocols: the package's own, one a file, and those of plug-ins."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import cast

from amodal.core import AmodalError, AmodalWarning, unknown
from amodal.core.argument_types import check_type, is_list
from amodal.core.references import load_reference
from amodal.core.registry import (
    Plugin,
    canonical,
    find_plugin,
    load,
    not_installed,
    pages,
    plugins,
    reserve,
)
from amodal.core.user_code import call_mistake, user_code
from amodal.evaluate.needs import CHANGED_RECORDS, Need
from amodal.evaluate.old_names import OLD_NAMES, current_name
from amodal.evaluate.options import from_text
from amodal.evaluate.protocol import Protocol

FOLDER = "evaluate/protocols"
reserve("protocols", OLD_NAMES)
ProtocolLike = str | Protocol | type[Protocol]


def protocol(which: ProtocolLike) -> Protocol:
    """Look a protocol up.

    Args:
        which: A name, `package.module:NAME` or `file.py:NAME`, whose code runs; or a Protocol or
            its class, which is taken as it is.

    Raises:
        AmodalError: For an unknown name, with the nearest ones, and for an object that is no
            protocol.
    """
    if not isinstance(which, str):
        return _as_protocol(which, repr(which))
    if ":" in which:
        return _as_protocol(load_reference(which), which)
    name = current_name(which)
    if (plugin := find_plugin("protocols", which)) is not None:
        return _as_protocol(plugin.load(check_plugin), str(plugin))
    if name in pages(FOLDER):
        return _own(name)
    known = [*pages(FOLDER), *plugins("protocols")]
    raise unknown("protocol", which, known, not_installed("protocols", which))


def _own(name: str) -> Protocol:
    return cast(Protocol, load(FOLDER, name, "protocol").PROTOCOL)


def all_protocols() -> list[Protocol]:
    """Every protocol in the order in which they are run.

    A plug-in that cannot be loaded is left out with a warning.
    """
    chosen = [_own(name) for name in pages(FOLDER)]
    for name in plugins("protocols"):
        try:
            chosen.append(protocol(name))
        except AmodalError as error:
            warnings.warn(f"{error} It is left out.", AmodalWarning, stacklevel=2)
    return sorted(chosen, key=lambda p: (p.rank, p.name))


def protocol_names() -> list[str]:
    """The names of all protocols, in the order in which they are run."""
    return [p.name for p in all_protocols()]


def protocol_of_report(name: str) -> Protocol:
    """The protocol of a name in a report, for its table and its picture; a plain one if it is not
    installed here."""
    try:
        return protocol(name) if ":" not in name else Protocol()
    except AmodalError:
        return Protocol()


def options_from_text(names: Iterable[str], texts: Mapping[str, str]) -> dict[str, object]:
    """Options of protocols that a command line names, in their types.

    Args:
        names: The protocols; all if there are none.
        texts: Option -> text.

    Raises:
        AmodalError: For an option that no protocol has.
    """
    if not texts:
        return {}
    chosen = [protocol(name) for name in names] or all_protocols()
    types = {o.name: o.type for one in chosen for o in one.options.values()}
    for name in texts:
        if name not in types:
            owner = chosen[0].name if len(chosen) == 1 else "these protocols"
            raise unknown(f"option of {owner}", name, types)
    return {n: from_text(t, types[n]) for n, t in texts.items()}


def changes_records(protocols: Iterable[ProtocolLike]) -> bool:
    """Whether any of the protocols embeds changed values or parts of values, so that cached
    features do not do."""
    check_type("protocols", protocols, is_list, "a list of names or Protocols, such as ['knn']")
    chosen = [protocol(p) for p in protocols]
    return any(CHANGED_RECORDS in one.needs or one.reads_tokens for one in chosen)


def check_plugin(plugin: Plugin, value: object) -> None:
    """Raise an AmodalError for a plug-in's object that is no protocol of its entry point's name."""
    made = _as_protocol(value, plugin.entry.value)
    if canonical(made.name) != plugin.name:
        raise AmodalError(
            f"the protocol says name = {made.name!r}, its entry point {plugin.name!r}; they must "
            "be one name"
        )


def _as_protocol(value: object, shown: str) -> Protocol:
    if isinstance(value, type) and issubclass(value, Protocol):
        with user_code(f"{value.__name__}(), called to make the protocol {shown},", value):
            value = value()
    if not isinstance(value, Protocol):
        raise AmodalError(
            f"{shown} is no protocol: an object of a subclass of amodal.evaluate.Protocol is needed"
        )
    if not value.name:
        raise AmodalError(f"the protocol {type(value).__name__} ({shown}) has no name; set `name`")
    if type(value).measure is None and type(value).run is Protocol.run:
        raise AmodalError(
            f"the protocol {value.name} ({type(value).__name__}) has neither `run` nor `measure`"
        )
    wrong = call_mistake(value.run, "context")
    if wrong or not callable(value.run):
        wrong = f"`run` {wrong or 'is no function'}; it is def run(self, context)"
    elif not is_list(value.needs) or not all(isinstance(need, Need) for need in value.needs):
        wrong = "`needs` must be a tuple of needs of amodal.evaluate.needs"
    elif value.Options is not None and not is_dataclass(value.Options):
        wrong = "`Options` must be a dataclass"
    if wrong:
        raise AmodalError(f"the protocol {value.name} ({type(value).__name__}): {wrong}")
    return value
