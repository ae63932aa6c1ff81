"""Coordinates told as one of several bins an axis: normalised object coordinates, NOCS, Wang et al.
2019, arXiv:1901.02970, section 4."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.objectives.common import full_precision


def bin_of(coordinates: Tensor, bins: int) -> Tensor:
    """int64 numbers of the bins of [0, 1] that coordinates fall into; those outside fall into the
    outermost."""
    return (coordinates * bins).floor().clamp(0, bins - 1).long()


def middle_of(number: Tensor, bins: int) -> Tensor:
    """Where the middle of a bin is."""
    return (number.to(torch.get_default_dtype()) + 0.5) / bins


@full_precision
def bin_cross_entropy(logits_N3BP: Tensor, coordinates_NP3: Tensor) -> Tensor:
    """(N, P): of each point the cross-entropy in nats of its bins, the mean of three axes.

    logits_N3BP:     scores of B bins for each axis and point.
    coordinates_NP3: where points are, in [0, 1].
    """
    number = bin_of(coordinates_NP3, logits_N3BP.shape[2]).mT[:, :, None]
    return -logits_N3BP.log_softmax(2).gather(2, number)[:, :, 0].mean(1)


@full_precision
def expected_distance(logits_N3BP: Tensor, coordinates_NP3: Tensor) -> Tensor:
    """(N, P): of each point how far the mean that its bins give is from where it is, |.| summed
    over three axes."""
    bins = logits_N3BP.shape[2]
    middle = (torch.arange(bins, device=logits_N3BP.device, dtype=logits_N3BP.dtype) + 0.5) / bins
    mean = torch.einsum("nabp,b->npa", logits_N3BP.softmax(2), middle)
    return (mean - coordinates_NP3.to(mean.dtype)).abs().sum(2)
