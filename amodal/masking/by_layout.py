"""How tokens are hidden from a masked student by how they lie, as in data2vec. Baevski et al. 2022, arXiv:2202.03555, section 4."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Tokens, name_code
from amodal.masking.block import block_mask
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.masking.span import span_mask


def hide(
    layout: str, tokens: Tokens, seeds_B: Tensor, *, image: float, sequence: float, span: int, other: float
) -> Tensor:
    """(T,) bool, which tokens of one source are hidden.

    Args:
        layout: of the modality, see `Modality.layout`.
        image: share of a grid that blocks cover.
        sequence: share of a signal that spans cover.
        span: tokens in a span, or a quarter of the signal where that is shorter.
        other: share of all other tokens, at random.
    """
    group, seed = tokens.row, hash_bits(seeds_B, name_code(tokens.names[0]))[tokens.row]
    if layout == "grid":
        return block_mask(group, seed, tokens.position, ratio=image)
    if layout == "signal":
        length = (tokens.lengths() // 4).clamp(1, span)[tokens.row]
        # spans overlap: a share s is covered if each token starts one with probability 1 - (1 - s)^(1 / length)
        return span_mask(group, seed, tokens.within(), start=1 - (1 - sequence) ** (1 / length.double()), length=length)
    count = tokens.lengths()[tokens.row].double()
    share = torch.where(
        count > 1, (1 / count).clamp(min=other), 0.0
    )  # of a few tokens, one at least, or there is nothing to learn
    return ~random_keep(group, seed, tokens.within(), share)
