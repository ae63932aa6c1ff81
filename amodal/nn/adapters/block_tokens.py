"""Tokens that are put between the blocks of a trunk, and taken out again: what all that stands in
`Encoder.block_hook` builds on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from amodal.core import AmodalError, Tokens
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import Transformer

PROMPT = ".prompt"
"""The source of tokens that are put in."""


def put_in(tokens: Tokens, rows: Tensor, x_NPD: Tensor) -> Tokens:
    """The tokens with P more before those of each of the rows (N,)."""
    n, count = x_NPD.shape[:2]
    position = tokens.position.new_zeros(n * count, tokens.position.shape[1])
    each = torch.full_like(rows, count)
    return Tokens.join(
        [
            Tokens.of(
                x_NPD.to(tokens.x.dtype).flatten(0, 1), rows, each, position, PROMPT, tokens.size
            ),
            tokens,
        ]
    )


def are_prompts(tokens: Tokens) -> Tensor:
    """(T,) bool: which of the tokens were put in."""
    number = tokens.names.index(PROMPT) if PROMPT in tokens.names else -1
    return tokens.source == number


def taken_out(tokens: Tokens) -> Tokens:
    return tokens.keep(~are_prompts(tokens)) if PROMPT in tokens.names else tokens


def bare(encoder: Encoder) -> Encoder:
    """The encoder, if nothing stands between its blocks yet. Raises AmodalError."""
    if encoder.block_hook is not None:
        raise AmodalError(
            f"learned tokens or skills stand between the blocks of this encoder already ({type(encoder.block_hook).__name__}), and new "
            "ones would take their place; begin with the run that it was adapted from"
        )
    return encoder


def depth_of(encoder: Encoder) -> int:
    """Blocks of its trunks, all of which must be transformers that read tokens. Raises AmodalError."""
    fields = (
        []
        if encoder.trunk != "separate"
        else [f for f in encoder.fields if f not in encoder.trunks]
    )
    fields += [f for f, trunk in encoder.trunks.items() if not isinstance(trunk, Transformer)]
    if fields:
        raise AmodalError(
            f"tokens are put between the blocks of this library's own transformers, and {', '.join(fields)} is read by another network"
        )
    return len(next(iter(encoder.trunks.values())).blocks)


@contextmanager
def plain(encoder: Encoder) -> Iterator[Encoder]:
    """The encoder as it is without them, inside the `with`."""
    hook, encoder.block_hook = encoder.block_hook, None
    try:
        yield encoder
    finally:
        encoder.block_hook = hook
