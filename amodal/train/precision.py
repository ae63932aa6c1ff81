"""bf16 autocast where it is faster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from amodal.core import unknown
from amodal.core.recipe import PRECISIONS

MIN_WIDTH = 256
"""On a CPU, the width from which bf16 products outweigh the casts (measured)."""


def has_hardware_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        supported: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return supported
    # functions of torch that not every version has
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return device.type == "cpu" and any(
        getattr(torch.cpu, probe, lambda: False)() for probe in probes
    )


def context(precision: str, device: torch.device, width: int = 0) -> AbstractContextManager[object]:
    """The autocast context of a precision.

    Args:
        precision: auto, float32 or bf16. auto takes bf16 where the device has it in hardware and
            the network is wide enough.
        width: Of the network.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    wide = device.type == "cuda" or width >= MIN_WIDTH
    if precision == "bf16" or (precision == "auto" and wide and has_hardware_bf16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
