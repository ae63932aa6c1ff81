"""Which parameters of a trained encoder learn: all, none, biases, low rank, adapters or prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from amodal.nn.adapters.bitfit import bitfit
from amodal.nn.adapters.block_tokens import depth_of, require_no_hook
from amodal.nn.adapters.deep_prompts import pattern_prompts
from amodal.nn.adapters.lora import lora
from amodal.nn.adapters.parallel_adapters import parallel_adapters
from amodal.nn.encoder import Encoder


def low_rank(encoder: Encoder, rank: int) -> Encoder:
    """Freeze all but low-rank differences in trunks and backbones."""
    encoder.requires_grad_(False)
    for trunk in encoder.trunks.values():
        lora(trunk, rank)
    for backbone in backbones(encoder):
        lora(backbone.body, rank)
        backbone.pass_gradients()
    return train_projections(encoder)


def unfreeze_backbones(encoder: Encoder) -> Encoder:
    """Let pretrained backbones, which are frozen by default, learn too."""
    for backbone in backbones(encoder):
        backbone.thaw()
    return encoder


def adapters(encoder: Encoder, rank: int) -> Encoder:
    """Freeze all but parallel adapters of width `rank`."""
    require_no_hook(encoder).requires_grad_(False)
    encoder.set_block_hook(parallel_adapters(encoder, prompts=0, bottleneck=rank))
    return train_projections(encoder)


def prompts(encoder: Encoder, rank: int) -> Encoder:
    """Freeze all but `rank` learned tokens."""
    require_no_hook(encoder).requires_grad_(False)
    if encoder.trunk == "joint":
        encoder.set_block_hook(pattern_prompts(encoder, length=rank, layers=1, missing_aware=False))
    else:
        encoder.set_block_hook(
            parallel_adapters(encoder, prompts=rank, every=depth_of(encoder), bottleneck=0)
        )
    return train_projections(encoder)


def frozen(encoder: Encoder) -> Encoder:
    """Freeze all parameters."""
    encoder.requires_grad_(False)
    return encoder


def biases(encoder: Encoder) -> Encoder:
    """Freeze all but biases, also of backbones."""
    bitfit(unfreeze_backbones(encoder))
    return encoder


def train_projections(encoder: Encoder) -> Encoder:
    """Let the map from a pretrained backbone to this encoder's width learn: it may be random still.

    That of a network from scratch was trained with it.
    """
    for field, tokenizer in encoder.tokenizers.items():
        if encoder.pretrained(field):
            cast(Any, tokenizer).project.requires_grad_(not encoder.space_of(field))
    return encoder


def backbones(encoder: Encoder) -> list[Any]:
    """The pretrained backbones of an encoder."""
    # of any class with `thaw`, `project` and `frozen`
    return [t for f, t in encoder.tokenizers.items() if encoder.contextual(f)]


TUNINGS: dict[str, Callable[[Encoder, int], Encoder]] = {
    "full": lambda encoder, rank: unfreeze_backbones(encoder),
    "head": lambda encoder, rank: train_projections(frozen(encoder)),
    "bias": lambda encoder, rank: train_projections(biases(encoder)),
    "lora": low_rank,
    "adapters": adapters,
    "prompts": prompts,
}
"""Name -> (encoder, rank) -> the encoder.

rank: of low-rank differences; width of adapters; number of prompts.
"""
