"""Packed tokens (values of different lengths end to end) as padded blocks, and back."""

import torch
from torch import Tensor

from amodal.core import Ragged
from amodal.core.host import host_copy, on_host, to_device


def pad_packed(values: Ragged) -> tuple[Tensor, Tensor]:
    """Values of different lengths as one padded block.

    Args:
        values: N values end to end, (sum of lengths, ...), and their lengths.

    Returns:
        The block (N, L, ...) with zeros past the end of each value, and its mask (N, L) bool,
        True where there is a token. L is at least 1.
    """
    lengths = host_copy(values.lengths)
    longest = int(lengths.max()) if len(values) else 0
    mask = to_device(torch.arange(max(longest, 1)) < lengths[:, None], values.lengths.device)
    padded = values.flat.new_zeros(*mask.shape, *values.flat.shape[1:])
    return padded.masked_scatter(
        mask.view(*mask.shape, *[1] * (padded.dim() - 2)), values.flat
    ), mask


def row_index(lengths_N: Tensor) -> Tensor:
    """Row number of each packed token, int64 (sum of lengths,)."""
    return on_host(
        lambda lengths: torch.repeat_interleave(torch.arange(len(lengths)), lengths), lengths_N
    )
