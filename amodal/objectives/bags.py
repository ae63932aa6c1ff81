"""Bags of parts side by side: values of different lengths as one block with a mask."""

import torch
from torch import Tensor

from amodal.core import Ragged
from amodal.core.host import host_copy, on_host, to_device


def padded(values: Ragged) -> tuple[Tensor, Tensor]:
    """(N, L, ...) with zeros behind each value's end, and (N, L) bool, true where there is
    something; L is at least 1."""
    lengths = host_copy(values.lengths)
    longest = int(lengths.max()) if len(values) else 0
    there = to_device(torch.arange(max(longest, 1)) < lengths[:, None], values.lengths.device)
    block = values.flat.new_zeros(*there.shape, *values.flat.shape[1:])
    return block.masked_scatter(
        there.view(*there.shape, *[1] * (block.dim() - 2)), values.flat
    ), there


def owners(lengths_N: Tensor) -> Tensor:
    """(sum of lengths,) int64: the value that each part belongs to."""
    return on_host(
        lambda lengths: torch.repeat_interleave(torch.arange(len(lengths)), lengths), lengths_N
    )
