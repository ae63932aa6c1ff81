"""Tokens that are inserted between the blocks of a network, and removed before its end."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Tokens

PROMPT = ".prompt"
"""The source of tokens that are put in."""


def insert(tokens: Tokens, rows: Tensor, x_NPD: Tensor, *, after: int = 0) -> Tokens:
    """Put P tokens among those of each of some rows.

    Args:
        tokens: Of any rows.
        rows: (N,) int64, the rows that get tokens.
        x_NPD: What those hold.
        after: How many of the tokens of a row stay before them, such as a class token.
    """
    n, count = x_NPD.shape[:2]
    position = tokens.position.new_zeros(n * count, tokens.position.shape[1])
    lengths = torch.full_like(rows, count)
    x_TD = x_NPD.to(tokens.x.dtype).flatten(0, 1)
    new = Tokens.of(x_TD, rows, lengths, position, PROMPT, tokens.size)
    if not after:
        return Tokens.join([new, tokens])
    is_before = tokens.skeleton().within() < after
    return Tokens.join([tokens.keep(is_before), new, tokens.keep(~is_before)])


def are_prompts(tokens: Tokens) -> Tensor:
    """(T,) bool: which of the tokens were inserted."""
    number = tokens.names.index(PROMPT) if PROMPT in tokens.names else -1
    return tokens.source == number


def without_prompts(tokens: Tokens) -> Tokens:
    """The tokens without those that were inserted."""
    return tokens.keep(~are_prompts(tokens)) if PROMPT in tokens.names else tokens
