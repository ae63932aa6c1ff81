"""Fields of which an encoder can be made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from amodal.core import AmodalError, unknown
from amodal.core.embeddings import FUSED
from amodal.errors import described


def check_fields(fields: Mapping[str, Any], backbones: Collection[str]) -> None:
    """Raise AmodalError for names that fields cannot have, no field, and backbones of no field."""
    if not isinstance(fields, Mapping):
        raise AmodalError(
            "an encoder is made of fields, a dict of name -> modality such as "
            f"amodal.as_dataset(data).fields, not of an object of type {type(fields).__name__}"
        )
    if not fields:
        raise AmodalError("an encoder needs at least one field; the data's schema has none")
    for name, modality in fields.items():
        if not callable(getattr(modality, "tokenizer", None)):
            raise AmodalError(
                f"the field {name!r} needs a modality, such as those of "
                f"amodal.as_dataset(data).fields, not {described(modality)}"
            )
        if FUSED == name or any(c in name for c in ".:"):
            raise AmodalError(
                f"a field cannot be called {name!r}: '.', ':' and the name {FUSED!r} have a "
                "meaning of their own"
            )
        if hasattr(nn.ModuleDict(), name):  # torch keeps parts as attributes, and this one is taken
            raise AmodalError(
                f"a field cannot be called {name!r}, a name that torch keeps for itself; call it "
                f"{name + '_'!r}, say"
            )
    for name in backbones:
        if name not in fields:
            raise unknown("field", name, fields, "It has a backbone in the options.")
