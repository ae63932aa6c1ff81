"""Pixels told at the end and, by the way, at coarser stages. Valada, Mohan and Burgard 2020,
arXiv:1808.03833, section 3.4 and 4.3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from amodal.objectives.common import connected_zero, full_precision

UNKNOWN = -100
"""The class of pixels that nobody knows."""


@full_precision
def pixel_cross_entropy(logits_NKHW: Tensor, target: Tensor) -> Tensor:
    """Mean over the known pixels of the cross-entropy in nats, the scores brought to the target's
    size (bilinear).

    logits_NKHW: scores of K classes.
    target:      (N, H', W') class numbers, or (N,) of whole pictures, which are told from the mean
                 of all scores; `UNKNOWN` does not count.

    Nothing known gives a connected 0. Raises ValueError unless both have N rows.
    """
    if len(logits_NKHW) != len(target) or target.dim() not in (1, 3):
        raise ValueError(
            f"scores {tuple(logits_NKHW.shape)} and classes {tuple(target.shape)} are not of the same rows"
        )
    if not (target != UNKNOWN).any():
        return connected_zero(logits_NKHW)
    if target.dim() == 1:
        return cross_entropy(logits_NKHW.mean((2, 3)), target, ignore_index=UNKNOWN)
    if logits_NKHW.shape[2:] != target.shape[1:]:
        logits_NKHW = interpolate(
            logits_NKHW, target.shape[1:], mode="bilinear", align_corners=False
        )
    return cross_entropy(logits_NKHW, target, ignore_index=UNKNOWN)


def deep_supervision(
    logits: Tensor, deep: Sequence[Tensor], target: Tensor, *, weights: Sequence[float] = (0.5, 0.6)
) -> Tensor:
    """CE + sum of weights[i] * CE of deep[i], coarse to fine, each a `pixel_cross_entropy`. Raises
    ValueError unless there are as many weights."""
    if len(deep) != len(weights):
        raise ValueError(f"{len(deep)} stages and {len(weights)} weights")
    terms = [w * pixel_cross_entropy(stage, target) for w, stage in zip(weights, deep)]
    return torch.stack([pixel_cross_entropy(logits, target), *terms]).sum()
