"""How far a pose is from the true one.

Ours: two formulas, for many poses at once.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotation_angle(a_N33: Tensor, b_N33: Tensor) -> Tensor:
    """(N,) degrees of the smallest turn from one rotation to the other, 0 to 180."""
    cosine = ((a_N33.mT @ b_N33).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))


def pose_accuracy(
    degrees_N: Tensor, distance_N: Tensor, most_degrees: float, most_distance: float
) -> float:
    """Share of poses whose turn and shift are both at most so far off, as in "10 degrees 5 cm"."""
    return float(((degrees_N <= most_degrees) & (distance_N <= most_distance)).double().mean())
