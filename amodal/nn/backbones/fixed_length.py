"""Series of one length: longer ones are cut to their middle, shorter ones end with zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Ragged
from amodal.core.host import host_copy
from amodal.nn.backbones.resnet1d import SignalField


def at_length(modality: SignalField, values: Ragged, length: int) -> tuple[Tensor, Tensor]:
    """Standardised steps of one length.

    Args:
        modality: Of the field.
        values: N series.
        length: In steps.

    Returns:
        (N, length, C), and which steps exist (N, length).
    """
    steps_TC, lengths = modality.steps(values)
    rows = torch.split(steps_TC, host_copy(lengths).tolist())
    x_NLC = steps_TC.new_zeros(len(rows), length, steps_TC.shape[1])
    inside = torch.zeros(len(rows), length, dtype=torch.bool, device=steps_TC.device)
    for i, row in enumerate(rows):
        start = max(0, (len(row) - length) // 2)
        part = row[start : start + length]
        x_NLC[i, : len(part)] = part
        inside[i, : len(part)] = True
    return x_NLC, inside
