"""How each kind of data is hidden from a masked student, as in data2vec. Baevski et al. 2022, arXiv:2202.03555, section 4."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Tokens, name_code
from amodal.core.host import host_copy, to_device
from amodal.masking.block import block_mask
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.masking.span import span_mask


def hide_as(
    kind: str, bag: Tokens, seeds_B: Tensor, *, image: float, sequence: float, span: int, other: float
) -> Tensor:
    """(T,) bool, which tokens of one source are hidden.

    kind: name of the modality. image: share of the grid that blocks cover; sequence: share of an audio clip or series covered by
    spans of `span` tokens, or of a quarter of the sequence where that is shorter; other: share of all other tokens, at random.
    """
    position, device, bag, seeds_B = bag.position, bag.row.device, bag.skeleton(), host_copy(seeds_B)
    group, seed = bag.row, hash_bits(seeds_B, name_code(bag.names[0]))[bag.row]
    if kind == "image":
        return to_device(block_mask(group, seed, host_copy(position), ratio=image), device)
    if kind in ("audio", "series"):
        length = (bag.lengths() // 4).clamp(1, span)[bag.row]
        # spans overlap: a share s is covered if each token starts one with probability 1 - (1 - s)^(1 / length)
        start = 1 - (1 - sequence) ** (1 / length.double())
        return to_device(span_mask(group, seed, bag.within(), start=start, length=length), device)
    count = bag.lengths()[bag.row].double()
    share = torch.where(
        count > 1, (1 / count).clamp(min=other), 0.0
    )  # of a few tokens, one at least, or there is nothing to learn
    return to_device(~random_keep(group, seed, bag.within(), share), device)
