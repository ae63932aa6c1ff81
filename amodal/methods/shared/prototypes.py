"""Parts of methods whose teacher scores prototypes: DINO, iBOT, DINOv2."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from amodal.nn.heads.projectors import PrototypeHead


def zero_centers(heads: Mapping[str, PrototypeHead]) -> nn.ParameterDict:
    """Field -> a centre (K,) of its head's outputs, which no gradient moves."""
    return nn.ParameterDict(
        {
            f: nn.Parameter(torch.zeros(len(head.prototypes)), requires_grad=False)
            for f, head in heads.items()
        }
    )


def rising_temperature(start: float, last: float, warmup: float, progress: float) -> float:
    """A temperature that rises along a line.

    Args:
        start: At the first step.
        last: After the warm-up.
        warmup: Share of the run in which it rises; 0: it is `last` throughout.
        progress: Share of the run that is done.
    """
    if not warmup:
        return last
    return start + min(progress / warmup, 1.0) * (last - start)
