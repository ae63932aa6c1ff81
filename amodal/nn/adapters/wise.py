"""WiSE-FT: weights between two trainings of one network, often better than either under a shift.

Wortsman et al., CVPR 2022, arXiv:2109.01903, section 3: theta = (1 - alpha) theta_0 + alpha
theta_1.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from amodal.core import AmodalError

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def interpolate(start: M, end: M, alpha: float) -> M:
    """A copy of `end` with a share of the weights of `start`.

    Args:
        start: Theta_0.
        end: Theta_1, whose integer buffers are taken.
        alpha: From 0 (`start`) to 1 (`end`).

    Raises:
        AmodalError: For an alpha out of range, and for networks of different architecture.
    """
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
            "weights can be averaged of networks that are built alike; these differ in "
            f"{', '.join(sorted(unlike)[:5])}"
        )
    result = copy.deepcopy(end)
    mixed = {
        n: torch.lerp(before[n], w, alpha) if w.is_floating_point() else w for n, w in after.items()
    }
    result.load_state_dict(mixed)
    return result
