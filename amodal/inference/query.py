"""Queries by field, and the records that they find."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amodal.core import AmodalError, unknown
from amodal.errors import described
from amodal.inference.forward_passes import AnyEncoder
from amodal.modalities import name_of


@dataclass(frozen=True)
class Hit:
    """A record that was found.

    Args:
        key: Of the record.
        score: Cosine, or |cosine| for an encoder whose `similarity` is "abs_cosine".
        source: The record's source that is nearest to the query.
        labels: Name -> the record's label.
        part: Which vector of that value is nearest, where an index holds many vectors a value and
            the query is one vector.
        name: What people call the record where its key is a hash of a row, else "".
    """

    key: str
    score: float
    source: str
    labels: dict[str, str | float | None] = field(default_factory=dict)
    part: str = ""
    name: str = ""


def merged(parts: Mapping[str, Any] | None, query: Mapping[str, Any]) -> dict[str, Any]:
    """A query of parts in a dict and parts by their names.

    Raises:
        AmodalError: If the first is no dict, such as a bare text.
    """
    if parts is not None and not isinstance(parts, Mapping):
        raise AmodalError(
            "a query says which field or kind of data a value is of, as in search(text='a red "
            f"boat') or search({{'text': 'a red boat'}}), not {described(parts)}"
        )
    return {**(parts or {}), **query}


def field_for(encoder: AnyEncoder, name: str) -> str:
    """The field that a name means: itself, or the one field of the modality with that name.

    Raises:
        AmodalError: If there is no such field, or more than one.
    """
    if name in encoder.fields:
        return name
    by_modality: dict[str, list[str]] = {}
    for field_, modality in encoder.fields.items():
        by_modality.setdefault(name_of(modality), []).append(field_)
    if name not in by_modality:
        raise unknown("field of this encoder", name, {*encoder.fields, *by_modality})
    fields = by_modality[name]
    if len(fields) > 1:
        raise AmodalError(
            f"this encoder has {len(fields)} {name} fields: {', '.join(fields)}. "
            f"Say which one is meant, e.g. --query {shlex.quote(f'{fields[0]}=…')}"
        )
    return fields[0]
