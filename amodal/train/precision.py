"""bf16 where it pays."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from amodal.core import unknown

CHOICES = ("auto", "float32", "bf16")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return device.type == "cpu" and any(
        getattr(torch.cpu, probe, lambda: False)() for probe in probes
    )


def context(choice: str, device: torch.device, width: int = 0) -> AbstractContextManager:
    """The autocast context for `choice`. "auto" takes bf16 where the device has it and the network
    is wide enough for the matrix products to outweigh the casts (measured on CPU: from a width of
    256)."""
    if choice not in CHOICES:
        raise unknown("precision", choice, CHOICES)
    wide = device.type == "cuda" or width >= 256
    if choice == "bf16" or (choice == "auto" and wide and has_fast_bf16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
