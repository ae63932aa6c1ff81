"""The encoder of a trained model as it was before training, to compare with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch

from amodal.core import AmodalError, AmodalWarning
from amodal.core.part import Spec
from amodal.methods.saved import untrained
from amodal.nn import config as encoder_config
from amodal.nn.backbones.module import ModuleBackbone
from amodal.nn.backbones.plugin import PluginBackbone
from amodal.nn.backbones.pretrained import Backbone
from amodal.nn.backbones.vit_weights import vit_weights
from amodal.nn.encoder import Encoder
from amodal.train.start import load_matching_weights


def untrained_encoder(
    encoder: Encoder, spec: Spec, config: dict[str, Any], user_code: Mapping[str, Any]
) -> Encoder:
    """Build an encoder anew from the seed of its run, with pretrained backbones as they came.

    Args:
        encoder: The trained one.
        spec: How its method is built; {} for runs of format 1.
        config: The run's config.json.
        user_code: Code of the user's that it was built with.
    """
    if spec.get("encoder"):
        before: Encoder = untrained(spec, config, user_code)
    else:
        torch.manual_seed(config.get("seed", 0))
        before = encoder_config.build(config["encoder"])
    for field in filter(before.contextual, before.fields):
        _reset_backbone(before, encoder, field, learnt=config["schedule"]["train_backbones"])
    if start := config["schedule"].get("init_from"):
        _load_start(before, str(start))
    return before


def _load_start(before: Encoder, start: str) -> None:
    """Give the encoder the weights of the vision transformer that training began with."""
    try:
        vit = vit_weights(start)
    except AmodalError as error:
        warnings.warn(
            f"the weights that this run began with cannot be read ({error}), so the untrained "
            "encoder is a random one",
            AmodalWarning,
            stacklevel=4,
        )
        return
    if vit is not None:
        fields = vit.fields_of(before.fields, [*filter(before.contextual, before.fields)])
        load_matching_weights(before, vit.encoder(fields, before.trunk, before.pool_name), start)


def _reset_backbone(before: Encoder, trained: Encoder, field: str, *, learnt: bool) -> None:
    """Give the untrained encoder a field's backbone with the weights that training began with."""
    fresh, mine = (cast(Backbone, e.tokenizers[field]) for e in (before, trained))
    if getattr(getattr(fresh, "body", None), "is_scratch", False):
        return  # random weights from the seed of the run, as it has now
    if not learnt:  # its weights are what they were
        fresh.load_body(mine)
    elif isinstance(fresh, ModuleBackbone) and not isinstance(fresh, PluginBackbone):
        warnings.warn(
            f"the backbone of {field!r} is your own module and was trained; its weights before "
            "that are not known, so the untrained encoder has the trained ones",
            AmodalWarning,
            stacklevel=4,
        )
        fresh.load_body(mine)
    else:
        made = encoder_config.backbones(
            {field: fresh.name}, before.fields, before.size, frozen=False
        )
        before.tokenizers[field] = made[field]
