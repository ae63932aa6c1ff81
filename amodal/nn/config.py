"""The encoder of a run's config.json, whichever format wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amodal.core import AmodalError, unknown
from amodal.core import part as parts
from amodal.core.part import Part, Spec
from amodal.nn import old_runs
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.transformer import size_of


def is_old(config: Mapping[str, Any]) -> bool:
    """Whether a description is of format 1, from before parts knew how they were made."""
    return "part" not in config


def as_spec(config: dict[str, Any]) -> Spec:
    """The spec of an encoder, of what a config.json says of it. Raises KeyError where something is
    missing."""
    return old_runs.encoder_spec(config) if is_old(config) else config


def build(config: dict[str, Any]) -> Any:
    """The encoder that `config` describes, with fresh weights; pretrained backbones are built, not
    downloaded."""
    return parts.build(as_spec(config))


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the encoder, or of the first of several: `fields`, `size`, …"""
    spec = as_spec(config)
    while "members" in spec["args"]:
        spec = spec["args"]["members"][0]
    return {"size": "tiny", "trunk": "separate", "positions": "sincos", "pool": "mean"} | spec[
        "args"
    ]


def backbones(
    specs: Mapping[str, Any], fields: Mapping[str, Any], size: str, *, frozen: bool = True
) -> dict[str, Part]:
    """Load pretrained backbones.

    Args:
        specs: field -> "timm:vit_small_patch16_224", … (see `amodal.nn.backbones.pretrained`), a
        module, or what makes one. fields: name -> modality.

    Raises:
        AmodalError: For fields that there are not, and backbones that cannot be had.
    """
    for field in specs:
        if field not in fields:
            raise unknown("field", field, fields, "A backbone was given for it.")
    return {
        f: backbone(spec, fields[f], size_of(size).width, frozen=frozen)
        for f, spec in specs.items()
    }


__all__ = ["AmodalError", "arguments", "as_spec", "backbones", "build", "is_old"]
