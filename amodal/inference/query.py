"""What is asked of a trained model, and what was found."""

from __future__ import annotations

from dataclasses import dataclass, field

from amodal.core import AmodalError, unknown
from amodal.modalities import name_of


@dataclass(frozen=True)
class Hit:
    """A record that was found. score: cosine, |cosine| of an `unsigned` encoder; source: the source
    of it that is nearest to the query; part: which part of that value, where an index holds several
    vectors of it and the query is one."""

    key: str
    score: float
    source: str
    labels: dict = field(default_factory=dict)
    part: str = ""


def field_for(encoder, name: str) -> str:
    """The field that a name means: itself, or the one field of that kind."""
    if name in encoder.fields:
        return name
    kinds: dict[str, list[str]] = {}
    for field_, modality in encoder.fields.items():
        kinds.setdefault(name_of(modality), []).append(field_)
    if name not in kinds:
        raise unknown("field of this encoder", name, {*encoder.fields, *kinds})
    if len(kinds[name]) > 1:
        sources = ", ".join(kinds[name])
        raise AmodalError(
            f"this encoder has several {name} sources: {sources}. Say which one is meant, e.g. --query {kinds[name][0]}=…"
        )
    return kinds[name][0]
