"""What stands between the blocks of an encoder (`Encoder.deep`), built again from what it wrote of itself."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from amodal.core import unknown
from amodal.nn.adapters.deep_prompts import pattern_prompts
from amodal.nn.adapters.parallel_adapters import lockstep
from amodal.nn.adapters.shared_space_tokens import space_tokens
from amodal.nn.adapters.skills import skills
from amodal.nn.encoder import Encoder

KINDS: dict[str, Callable[..., nn.Module]] = {
    "pattern": pattern_prompts,
    "skills": skills,
    "space": space_tokens,
    "lockstep": lockstep,
}


def deep_of(encoder: Encoder, written: dict) -> nn.Module:
    """What `written` described, for this encoder."""
    options = dict(written)
    kind = options.pop("kind")
    if kind not in KINDS:
        raise unknown("kind of tokens between blocks", kind, KINDS)
    return KINDS[kind](encoder, **options)
