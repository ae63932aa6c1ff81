"""Weights of patches of one size, for patches of another (FlexiViT, Beyer et al. 2023,
arXiv:2212.08013)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate


@cache
def resizing(old: int, new: int) -> Tensor:
    """The pseudo-inverse of resizing a patch (bicubic, antialiased).

    Products with weights that it maps are close to those of the resized patch: of all weights w the
    result is the one that makes <x, w> for patches x of the new side nearest to the old weights.

    Args:
        old, new: sides in pixels.

    Returns:
        (new * new, old * old) float64, on the CPU.
    """
    basis = torch.eye(old * old, dtype=torch.float64).view(-1, 1, old, old)
    resized = interpolate(basis, (new, new), mode="bicubic", antialias=True, align_corners=False)
    inverse: Tensor = torch.linalg.pinv(resized.flatten(1))
    return inverse


def resized_weights(weight_DC: Tensor, old: int, new: int) -> Tensor:
    """Weights of a linear map of patches, for patches of another side.

    Args:
        weight_DC: (D, channels * old * old).
        old, new: sides in pixels.

    Returns:
        (D, channels * new * new).
    """
    if old == new:
        return weight_DC
    inverse = resizing(old, new).to(weight_DC.device, weight_DC.dtype)
    made: Tensor = (weight_DC.unflatten(1, (-1, old * old)) @ inverse.T).flatten(1)
    return made
