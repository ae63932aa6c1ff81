"""Coordinates as classification into bins along each axis.

Normalised object coordinates: NOCS, Wang et al., CVPR 2019, arXiv:1901.02970, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.objectives.common import full_precision


def to_bins(coordinates: Tensor, bins: int) -> Tensor:
    """Bin numbers of coordinates in [0, 1], int64 of the same shape.

    Coordinates outside [0, 1] go to the outermost bins.
    """
    return (coordinates * bins).floor().clamp(0, bins - 1).long()


def bin_centers(index: Tensor, bins: int) -> Tensor:
    """Coordinates of the centers of bins, float of the same shape as `index`."""
    return (index.to(torch.get_default_dtype()) + 0.5) / bins


@full_precision
def bin_cross_entropy(logits_N3BP: Tensor, coordinates_NP3: Tensor) -> Tensor:
    """Cross-entropy of each point's bins, in nats, averaged over the three axes.

    Args:
        logits_N3BP: scores of B bins for each axis and point.
        coordinates_NP3: targets in [0, 1].

    Returns:
        (N, P)
    """
    index = to_bins(coordinates_NP3, logits_N3BP.shape[2]).mT[:, :, None]
    return -logits_N3BP.log_softmax(2).gather(2, index)[:, :, 0].mean(1)


@full_precision
def expected_distance(logits_N3BP: Tensor, coordinates_NP3: Tensor) -> Tensor:
    """L1 distance of the expected bin center from the target, summed over the three axes.

    Args:
        logits_N3BP: scores of B bins for each axis and point.
        coordinates_NP3: targets in [0, 1].

    Returns:
        (N, P)
    """
    bins = logits_N3BP.shape[2]
    centers = (torch.arange(bins, device=logits_N3BP.device, dtype=logits_N3BP.dtype) + 0.5) / bins
    mean = torch.einsum("nabp,b->npa", logits_N3BP.softmax(2), centers)
    return (mean - coordinates_NP3.to(mean.dtype)).abs().sum(2)
