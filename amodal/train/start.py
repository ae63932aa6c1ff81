"""Where a run begins: on which device, and with which weights."""

from __future__ import annotations

import os

import torch

from amodal.core import AmodalError, unknown
from amodal.nn import config as encoder_config
from amodal.nn.encoder import Encoder


@torch.no_grad()
def begin_with(encoder: Encoder, start: Encoder, folder: str) -> str:
    """Copy the weights that both have under one name and in one shape.

    Returns:
        A sentence with their number. Raises AmodalError for none.
    """
    mine, its = encoder.state_dict(), start.state_dict()
    both = [name for name in mine if name in its and mine[name].shape == its[name].shape]
    described = ", ".join(
        f"--{k} {v}"
        for k, v in encoder_config.arguments(start.spec).items()
        if k in ("size", "trunk", "pool")
    )
    words = f"{len(both)} of {len(mine)} weights taken from {folder} ({described})"
    if not both:
        raise AmodalError(
            f"{words}: nothing in it fits this encoder. Give it the same size, trunk and fields"
        )
    for name in both:
        mine[name].copy_(its[name])
    return words


def pick_device(name: str) -> torch.device:
    """auto, cpu, cuda, cuda:1, …"""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ["auto", "cpu", "cuda"]) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise AmodalError("no CUDA device can be used here; take --device cpu")
    return device
