"""Learned factors of what a block adds, which begin small (Touvron et al. 2021, arXiv:2103.17239,
section 3)."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from amodal.core import AmodalError


class LayerScale(nn.Module):
    """A factor for each channel.

    Args:
        width: D.
        value: Which they begin at.
    """

    def __init__(self, width: int, value: float):
        super().__init__()
        self.gain = nn.Parameter(torch.full((width,), value))

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return x_TD * self.gain


@runtime_checkable
class ScalesUpdates(Protocol):
    """A trunk whose blocks may have a `LayerScale`."""

    def scale_updates(self, value: float) -> None:
        """Multiply what each half of each block adds by factors that begin at a value."""


def scale_updates(trunk: nn.Module, value: float) -> None:
    """Multiply what the blocks of a trunk add by learned factors.

    Args:
        trunk: Of this library, with attention.
        value: Which they begin at, above 0.

    Raises:
        AmodalError: For another trunk, and another value.
    """
    if not 0 < value < math.inf:
        raise AmodalError(f"layer_scale is above 0, or 0 for none, not {value}")
    if not isinstance(trunk, ScalesUpdates):
        raise AmodalError(
            f"a trunk of the kind {type(trunk).__name__} has no layer scale: take one of this "
            "library with attention, or layer_scale 0"
        )
    trunk.scale_updates(value)
