"""The device of a run, and the weights it starts from."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from amodal import methods
from amodal.core import AmodalError, unknown
from amodal.core.run_options import RunOptions
from amodal.data import Dataset
from amodal.nn import config as encoder_config
from amodal.nn.backbones.vit_weights import VitWeights
from amodal.nn.encoder import Encoder
from amodal.train.settings import Settings


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


def start_from_vit(
    vit: VitWeights, dataset: Dataset, settings: Settings
) -> tuple[Dataset, Settings]:
    """Read pictures as a vision transformer does, and take its size, positions and pooling.

    Args:
        vit: Of `init_from`.
        dataset: With the fields to learn from. Fields with a backbone stay as they are.
        settings: Its pool is used if it is set.

    Returns:
        Both, as they are for this run.

    Raises:
        AmodalError: For settings that the weights do not fit.
    """
    if settings.size not in (RunOptions.size, vit.size):
        raise AmodalError(
            f"{vit.spec} is of size {vit.size}, and the setting is {settings.size}: leave --size "
            "out"
        )
    for name in ("positions", "experts"):
        if (value := getattr(settings, name)) not in (None, 0):
            raise AmodalError(
                f"{vit.spec} has its {name} as it was trained: leave --{name} {value} out"
            )
    if settings.trunk is not None and ":" in settings.trunk:
        raise AmodalError(f"--trunk {settings.trunk} and --init-from {vit.spec} are two models")
    taken = settings.backbones or {}
    free = {f: m for f, m in dataset.fields.items() if f not in taken}
    read = vit.pictures(free, settings.recipe.resolution)
    settings = replace(
        settings,
        size=vit.size,
        positions=vit.positions(read),
        pool=settings.pool or vit.pool,
    )
    return dataset.with_fields(dataset.fields | read), settings


def encoder_of_vit(
    vit: VitWeights, method: methods.MethodLike, dataset: Dataset, settings: Settings
) -> Encoder:
    """An encoder with the weights of a vision transformer, to start from.

    Args:
        dataset, settings: Of `start_from_vit`.
    """
    fields = vit.fields_of(dataset.fields, without=settings.backbones or {})
    arguments = {"trunk": "separate"} | methods.encoder_options(method) | settings.encoder
    return vit.encoder(fields, str(arguments["trunk"]), str(arguments["pool"]))


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
