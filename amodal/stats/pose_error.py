"""Errors of poses.

Ours: two formulas, for many poses at once.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotation_angle(a_N33: Tensor, b_N33: Tensor) -> Tensor:
    """(N,) degrees, 0 to 180, of the smallest rotation from one to the other."""
    cosine = ((a_N33.mT @ b_N33).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))


def pose_accuracy(
    degrees_N: Tensor, distance_N: Tensor, most_degrees: float, most_distance: float
) -> float:
    """The share of poses whose rotation and translation errors are both below a threshold, as in
    "10 degrees 5 cm".

    Args:
        degrees_N: Rotation errors.
        distance_N: Translation errors.
        most_degrees: Threshold of the former.
        most_distance: Threshold of the latter.
    """
    return float(((degrees_N <= most_degrees) & (distance_N <= most_distance)).double().mean())
