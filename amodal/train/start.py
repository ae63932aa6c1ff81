"""The device of a run, and the weights it starts from."""

from __future__ import annotations

import os

import torch

from amodal.core import AmodalError, unknown
from amodal.nn import config as encoder_config
from amodal.nn.encoder import Encoder


@torch.no_grad()
def load_matching_weights(encoder: Encoder, source: Encoder, folder: str) -> str:
    """Copy the weights that both encoders have under the same name and in the same shape.

    Args:
        encoder: What to copy into.
        source: The encoder of the run in `folder`.

    Returns:
        A sentence with their number.

    Raises:
        AmodalError: If no weight fits.
    """
    target, state = encoder.state_dict(), source.state_dict()
    shared = [name for name in target if name in state and target[name].shape == state[name].shape]
    described = ", ".join(
        f"--{k} {v}"
        for k, v in encoder_config.arguments(source.spec).items()
        if k in ("size", "trunk", "pool")
    )
    note = f"{len(shared)} of {len(target)} weights taken from {folder} ({described})"
    if not shared:
        raise AmodalError(
            f"{note}: nothing in it fits this encoder. Give it the same size, trunk and fields"
        )
    for name in shared:
        target[name].copy_(state[name])
    return note


def pick_device(name: str) -> torch.device:
    """The device of a name: auto, cpu, cuda, cuda:1, …

    Raises:
        AmodalError: If there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ["auto", "cpu", "cuda"]) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise AmodalError("no CUDA device is available; take --device cpu")
    return device
