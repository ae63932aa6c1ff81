"""How tokens are hidden from a masked student, by the layout of their modality.

As in data2vec, Baevski et al. 2022, arXiv:2202.03555, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from amodal.core import AmodalError, Tokens, name_code
from amodal.core.host import host_copy, to_device
from amodal.masking.block import block_mask
from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.random import random_keep
from amodal.masking.span import span_mask


def hider(
    method: str, *, image: float, sequence: float, span: int, other: float
) -> Callable[[str, Tokens, Tensor], Tensor]:
    """`layout_mask` with shares that are checked: (layout, tokens, seeds) -> (T,) bool.

    Args:
        method: For messages.
        image, sequence, span, other: See `layout_mask`.

    Raises:
        AmodalError: For a share that is none, and a span without a token.
    """
    for name, share in (("image", image), ("sequence", sequence), ("other", other)):
        if not 0 <= share <= 1:  # not nan either
            raise AmodalError(
                f"{method}.{name} is the share of tokens that is hidden, from 0 to 1, not {share}"
            )
    if span < 1:
        raise AmodalError(f"{method}.span is 1 token or more, not {span}")
    return partial(layout_mask, image=image, sequence=sequence, span=span, other=other)


def partial_mask(
    layout: str, tokens: Tokens, seeds_B: Tensor, *, masked: float, low: float, high: float
) -> Tensor:
    """As `layout_mask`, in some rows alone, and of a share that each row draws.

    As iBOT (Zhou et al., ICLR 2022, arXiv:2111.07832, section 3.3) and DINOv2.

    Args:
        layout, tokens, seeds_B: As in `layout_mask`.
        masked: How often a row has hidden tokens.
        low: Smallest share of a row's tokens that is hidden.
        high: Largest.

    Returns:
        (T,) bool.
    """
    seeds_B, name = host_copy(seeds_B), tokens.names[0]
    share_B = low + (high - low) * uniform(seeds_B, name_code(f"share of {name}")).double()
    chosen_B = uniform(seeds_B, name_code(f"whether {name}")) < masked
    hidden_T = host_copy(
        layout_mask(
            layout, tokens, seeds_B, image=share_B, sequence=share_B, span=10, other=share_B
        )
    )
    return to_device(hidden_T & chosen_B[host_copy(tokens.row)], tokens.row.device)


def layout_mask(
    layout: str,
    tokens: Tokens,
    seeds_B: Tensor,
    *,
    image: float | Tensor,
    sequence: float | Tensor,
    span: int,
    other: float | Tensor,
) -> Tensor:
    """Which tokens of one source are hidden.

    Args:
        layout: Of the modality, see `Modality.layout`.
        tokens: Of one source; x is not read.
        seeds_B: (B,) int64, of the rows.
        image: Share of a grid that blocks cover. This and other shares may be a tensor (B,) on the
            CPU, of one for each row.
        sequence: Share of a signal that spans cover.
        span: Tokens in a span, or a quarter of the signal where that is shorter.
        other: Share of all other tokens, at random.

    Returns:
        (T,) bool.
    """
    position, device, tokens, seeds_B = (
        tokens.position,
        tokens.row.device,
        tokens.skeleton(),
        host_copy(seeds_B),
    )
    image, sequence, other = (
        share[tokens.row] if isinstance(share, Tensor) else share
        for share in (image, sequence, other)
    )
    group, seed = tokens.row, hash_bits(seeds_B, name_code(tokens.names[0]))[tokens.row]
    if layout == "grid":
        return to_device(block_mask(group, seed, host_copy(position), ratio=image), device)
    if layout == "signal":
        length = (tokens.lengths() // 4).clamp(1, span)[tokens.row]
        # spans overlap: a share s is covered if each token starts one with probability 1 - (1 -
        # s)^(1 / length)
        start = 1 - (1 - sequence) ** (1 / length.double())
        return to_device(
            span_mask(group, seed, tokens.within(), start=start, length=length), device
        )
    count = tokens.lengths()[tokens.row].double()
    share = torch.where(
        count > 1, (1 / count).maximum(torch.as_tensor(other, dtype=count.dtype)), 0.0
    )  # of a few tokens, one at least, or there is nothing to learn
    return to_device(~random_keep(group, seed, tokens.within(), share), device)
