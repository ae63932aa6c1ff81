"""Semantic segmentation with auxiliary losses at coarser stages.

Valada, Mohan and Burgard, IJCV 2020, arXiv:1808.03833, sections 3.4 and 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from amodal.objectives.common import connected_zero, full_precision

IGNORE_INDEX = -100
"""The class of pixels without a label."""


@full_precision
def pixel_cross_entropy(logits_NKHW: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels, in nats.

    Logits are resized to the target's size (bilinear).

    Args:
        logits_NKHW: scores of K classes.
        target: (N, H', W') class numbers, or (N,) of whole images, which are compared with the
            mean logits of all pixels. `IGNORE_INDEX` does not count.

    Returns:
        A scalar. Without a labelled pixel: 0, connected to the input.

    Raises:
        ValueError: logits and target are not of the same N rows.
    """
    if len(logits_NKHW) != len(target) or target.dim() not in (1, 3):
        raise ValueError(
            f"scores {tuple(logits_NKHW.shape)} and classes {tuple(target.shape)} are not of the "
            "same rows"
        )
    if not (target != IGNORE_INDEX).any():
        return connected_zero(logits_NKHW)
    if target.dim() == 1:
        return cross_entropy(logits_NKHW.mean((2, 3)), target, ignore_index=IGNORE_INDEX)
    if logits_NKHW.shape[2:] != target.shape[1:]:
        logits_NKHW = interpolate(
            logits_NKHW, target.shape[1:], mode="bilinear", align_corners=False
        )
    return cross_entropy(logits_NKHW, target, ignore_index=IGNORE_INDEX)


def deep_supervision(
    logits: Tensor,
    aux_logits: Sequence[Tensor],
    target: Tensor,
    *,
    weights: Sequence[float] = (0.5, 0.6),
) -> Tensor:
    """Cross-entropy of the output and of the auxiliary outputs.

        L = CE(logits) + sum_i weights[i] CE(aux_logits[i])

    Args:
        logits: (N, K, H, W).
        aux_logits: logits of earlier stages, coarse to fine.
        target: as in `pixel_cross_entropy`.
        weights: one for each auxiliary output.

    Raises:
        ValueError: the numbers of auxiliary outputs and weights differ.
    """
    if len(aux_logits) != len(weights):
        raise ValueError(f"{len(aux_logits)} stages and {len(weights)} weights")
    terms = [w * pixel_cross_entropy(stage, target) for w, stage in zip(weights, aux_logits)]
    return torch.stack([pixel_cross_entropy(logits, target), *terms]).sum()
