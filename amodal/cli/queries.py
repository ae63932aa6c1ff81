"""The options of a query, one for each modality: `amodal search RUN --image boat.png`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Optional

from tyro.conf import arg

from amodal.core import registry

if TYPE_CHECKING:
    from amodal.modalities import Modality

TAKEN = frozenset(
    "run query like weight k where fields index ensemble ensemble_weights generate volume rerank "
    "json sheet data code method backbone modality help".split()
)
"""The other options of `amodal search`. A modality of such a name is reached by --query."""
# names alone: to import modalities takes longer than all of `amodal --help`
MODALITIES = [
    name
    for name in (*registry.pages("modalities"), *registry.plugins("modalities"))
    if name not in TAKEN
]
"""Those with an option: the package's own, then those of plug-ins."""


def _option(name: str) -> tuple[str, Any, Any]:
    """(name, type, default) of the option that takes a value of a modality."""
    described = arg(
        metavar="VALUE", help=f"query by {name}: a file, or the value itself", help_behavior_hint=""
    )
    kind: Any = Annotated[Optional[str], described]  # noqa: UP045, a type that tyro reads
    return name, kind, dataclasses.field(default=None)


QueryOptions = dataclasses.make_dataclass(
    "QueryOptions",
    [_option(name) for name in MODALITIES],
    namespace={"__doc__": "A value of the one field of a modality; of many fields, --query."},
    frozen=True,
)


def query_parts(options: Any) -> dict[str, str]:
    """Modality -> value, of the options that are set."""
    return {name: value for name, value in vars(options).items() if value is not None}


def example_query(fields: Mapping[str, Modality]) -> str:
    """A part of a query that an encoder with these fields takes: words, if it reads any."""
    kinds = [modality.kind for modality in fields.values()]
    for name in sorted(fields, key=lambda field: not fields[field].takes_prompts):
        kind = fields[name].kind
        if kind in MODALITIES and kinds.count(kind) == 1:  # else it says too little
            return f"--{kind.replace('_', '-')} …"
    return f"--query {quote(next(iter(fields)))}=…"
