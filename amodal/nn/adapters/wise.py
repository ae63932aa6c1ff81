"""WiSE-FT: weights on the line between two trainings of one network, which is often better where
the data has shifted than either end. Wortsman et al., CVPR 2022, arXiv:2109.01903, section 3: theta
= (1 - alpha) theta_0 + alpha theta_1."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from amodal.core import AmodalError

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def between(start: M, end: M, alpha: float) -> M:
    """A copy of `end` with (1 - alpha) of the weights of `start`: it is `start` at 0 and `end` at
    1. Buffers that are no real numbers are the end's. Raises AmodalError for an alpha outside [0,
    1] and for networks that are not built alike."""
    if not 0 <= alpha <= 1:
        raise AmodalError(
            f"alpha is the share of the second network's weights, from 0 to 1, not {alpha}"
        )
    before, after = start.state_dict(), end.state_dict()
    unlike = [
        n
        for n in before.keys() | after.keys()
        if n not in before or n not in after or before[n].shape != after[n].shape
    ]
    if unlike:
        raise AmodalError(
            f"weights can be averaged of networks that are built alike; these differ in {', '.join(sorted(unlike)[:5])}"
        )
    found = copy.deepcopy(end)
    mixed = {
        n: torch.lerp(before[n], w, alpha) if w.is_floating_point() else w for n, w in after.items()
    }
    found.load_state_dict(mixed)
    return found
