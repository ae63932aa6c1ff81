"""The protocols there are: the package's own, one a file, and those of plug-ins."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from amodal.core import AmodalError, unknown
from amodal.core.registry import load, pages
from amodal.evaluate.needs import CHANGED_RECORDS
from amodal.evaluate.old_names import current_name
from amodal.evaluate.plugins import load_entry_point, load_object, load_plugins, origin
from amodal.evaluate.protocol import Protocol

Named = str | Protocol | type[Protocol]


def protocol(which: Named) -> Protocol:
    """A protocol by name, `package.module:NAME` or `file.py:NAME`; a Protocol, or its class, is
    taken as it is.

    Raises AmodalError with the nearest names, or for an object that is no protocol.
    """
    if not isinstance(which, str):
        return _as_protocol(which, repr(which))
    if ":" in which:
        return _as_protocol(load_object(which), which)
    name, plugins = current_name(which), load_plugins("protocols")
    _check_names(plugins)
    if name in pages("evaluate/protocols"):
        return load("evaluate/protocols", name, "protocol").PROTOCOL
    if name in plugins:
        return _as_protocol(load_entry_point(plugins[name]), origin(plugins[name]))
    raise unknown("protocol", which, [*pages("evaluate/protocols"), *plugins])


def all_protocols() -> list[Protocol]:
    """Every protocol in the order in which they are run. A plug-in that cannot be loaded is left
    out with a warning."""
    plugins = load_plugins("protocols")
    _check_names(plugins)
    chosen = [protocol(name) for name in pages("evaluate/protocols")]
    for name in plugins:
        try:
            chosen.append(protocol(name))
        except AmodalError as error:
            warnings.warn(f"{error}. It is left out.", stacklevel=2)
    return sorted(chosen, key=lambda p: (p.rank, p.name))


def protocol_names() -> list[str]:
    """The names of the protocols there are, in the order in which they are run."""
    return [p.name for p in all_protocols()]


def described(name: str) -> Protocol:
    """The protocol of a name in a report, for its table and its picture; a plain one if it is not
    installed here."""
    try:
        return protocol(name) if ":" not in name else Protocol()
    except AmodalError:
        return Protocol()


def changes_records(protocols: Iterable[Named]) -> bool:
    """Whether any of the protocols reads values anew, so that features which were computed before
    do not do."""
    return any(CHANGED_RECORDS in protocol(p).needs for p in protocols)


def _check_names(plugins: dict) -> None:
    for name in pages("evaluate/protocols"):
        if name in plugins:
            raise AmodalError(
                f"the plug-in {origin(plugins[name])} has a protocol {name!r}, and so has amodal itself"
            )


def _as_protocol(value: object, shown: str) -> Protocol:
    if isinstance(value, type) and issubclass(value, Protocol):
        value = value()
    if not isinstance(value, Protocol):
        raise AmodalError(
            f"{shown} is no protocol: an object of a subclass of amodal.evaluate.Protocol is needed"
        )
    if not value.name:
        raise AmodalError(f"the protocol {type(value).__name__} ({shown}) has no name; set `name`")
    return value
