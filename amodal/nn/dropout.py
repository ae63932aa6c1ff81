"""Dropout whose mask is a function of a seed per row.

So it is the same in a micro-batch, on another number of processes, and after a resume.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.masking.hashing import uniform


def seeded_dropout(x_ND: Tensor, seeds_N: Tensor, rate: float, stream: int = 0) -> Tensor:
    """Zero entries at random, and divide the others by 1 - rate (Srivastava et al. 2014).

    Args:
        x_ND: (N, D).
        seeds_N: (N,) int64, one for each row.
        rate: Probability to drop an entry.
        stream: Another number gives an independent mask.

    Raises:
        ValueError: For a rate outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate is the chance to drop an entry, from 0 to below 1, got {rate}")
    if not rate:
        return x_ND
    place = torch.arange(x_ND.shape[1], device=x_ND.device)
    stays = uniform(seeds_N.unsqueeze(1), stream, place) >= rate
    return x_ND * stays.to(x_ND.dtype) / (1 - rate)
