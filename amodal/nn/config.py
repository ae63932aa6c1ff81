"""The encoder that a run's config.json describes, in whichever format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from amodal.core import part as parts
from amodal.core import unknown
from amodal.core.part import Part, Spec
from amodal.modalities import Modality
from amodal.nn import old_runs
from amodal.nn.backbones.module import check_apart
from amodal.nn.backbones.pretrained import MakeModule, backbone
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of

Description = dict[str, Any]
"""What a config.json says of an encoder: a spec, or the flat description of format 1."""


def as_spec(config: Description) -> Spec:
    """The spec of an encoder.

    Raises:
        KeyError: Where a description of format 1 lacks an entry.
    """
    is_spec = "part" in config  # parts know how they were made since format 2
    return config if is_spec else old_runs.encoder_spec(config)


def build(config: Description) -> Encoder:
    """The encoder with fresh weights; nothing is downloaded for pretrained backbones.

    It may be an `amodal.nn.ensemble.Ensemble`, which is called in the same way.
    """
    return cast(Encoder, parts.build(as_spec(config)))


def arguments(config: Description) -> dict[str, Any]:
    """The arguments of the encoder, or of the first member of an ensemble: `fields`, `size`, …"""
    spec = as_spec(config)
    while "members" in spec["args"]:
        spec = spec["args"]["members"][0]
    defaults = {"size": "tiny", "trunk": "separate", "positions": "sincos", "pool": "mean"}
    out: dict[str, Any] = defaults | spec["args"]
    if not isinstance(out["trunk"], str):  # a pretrained one
        out["trunk"] = "joint"
    return out


def backbones(
    specs: Mapping[str, str | nn.Module | MakeModule],
    fields: Mapping[str, Modality],
    size: str,
    *,
    frozen: bool = True,
) -> dict[str, Part]:
    """Load pretrained backbones.

    Args:
        specs: Field -> "timm:vit_small_patch16_224", … (see `amodal.nn.backbones.pretrained`), a
            module, of which a copy is used, or a function without arguments that makes one.
        fields: Name -> modality.
        size: Of the encoder, whose width the tokens get.
        frozen: Their own parameters do not learn.

    Raises:
        AmodalError: For unknown fields, for backbones that cannot be loaded, and for a module of
            two fields that is not frozen.
    """
    for field in specs:
        if field not in fields:
            raise unknown("field", field, fields, "It has a backbone in the options.")
    if not frozen:  # frozen copies of one module remain the same
        check_apart((f, spec) for f, spec in specs.items() if isinstance(spec, nn.Module))
    return {
        f: backbone(spec, fields[f], size_of(size).width, frozen=frozen)
        for f, spec in specs.items()
    }
