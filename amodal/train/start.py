"""The device of a run, and the weights it starts from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from amodal import methods
from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.nn import config as encoder_config
from amodal.nn.axial import BoxAugmentation
from amodal.nn.backbones.vit_weights import VitWeights, grid_of, resampled
from amodal.nn.encoder import Encoder
from amodal.nn.pooling import ClsPool, RegisterPool
from amodal.nn.positions import GRID, Grid, relative_side
from amodal.nn.trunks import ALL
from amodal.train.settings import Settings


def _renamed(state: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """The entries below one name, below another."""
    return {new + n.removeprefix(old): v for n, v in state.items() if n.startswith(old)}


@torch.no_grad()
def load_matching_weights(encoder: Encoder, source: Encoder, folder: str) -> str:
    """Copy the weights that both encoders have under the same name and in the same shape.

    A table of positions over the plane is resampled where it has another side. The trunk of all
    fields and those of single fields have the same layers: each of these begins as that one, and
    that one as the trunk of a single field if there is one alone. Class tokens get the registers
    that the others have beside them, which the layers read.

    Args:
        encoder: What to copy into.
        source: The encoder of the run in `folder`.

    Returns:
        A sentence with their number.

    Raises:
        AmodalError: If no weight fits.
    """
    _take_registers(encoder, source)
    target, state = encoder.state_dict(), source.state_dict()
    trunks = [*getattr(source, "trunks", ())]  # an ensemble has those of its members
    if len(trunks) == 1:
        for trunk in getattr(encoder, "trunks", ()):
            if trunk not in trunks and ALL in (trunk, *trunks):
                state |= _renamed(state, f"trunks.{trunks[0]}.", f"trunks.{trunk}.")
    now, then = (getattr(e, "position", None) for e in (encoder, source))
    if isinstance(now, Grid) and isinstance(then, Grid):
        state["position.table"] = resampled(then.table, len(now.table))
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


def _take_registers(encoder: Encoder, source: Encoder) -> None:
    """Put registers beside class tokens that had some in another encoder, of its width."""
    pools = getattr(source, "pools", {})  # an ensemble has those of its members
    for field in encoder.fields:
        pool, other = encoder.pools[field], pools[field] if field in pools else None
        bare = isinstance(pool, ClsPool) and not isinstance(pool, RegisterPool)
        if bare and isinstance(other, RegisterPool) and encoder.width == source.width:
            registers = RegisterPool(encoder.width, len(other.registers))
            encoder.set_pool(field, registers.beside(cast(ClsPool, pool)))


def start_from_vit(
    vit: VitWeights, dataset: Dataset, settings: Settings
) -> tuple[Dataset, dict[str, Any]]:
    """Read pictures as a vision transformer does, and take its size, positions and pooling.

    Args:
        vit: Of `init_from`.
        dataset: With the fields to learn from. Fields with a backbone stay as they are.
        settings: Of the run.

    Returns:
        The dataset as it is for this run, and the arguments of the encoder where none are set.

    Raises:
        AmodalError: For settings that the weights do not fit.
    """
    _check_size(settings, vit.spec, vit.size)
    if settings.experts:
        raise AmodalError(
            f"{vit.spec} has its experts as it was trained: leave --experts {settings.experts} out"
        )
    if settings.trunk is not None and ":" in settings.trunk:
        raise AmodalError(f"--trunk {settings.trunk} and --init-from {vit.spec} are two models")
    taken = settings.backbones or {}
    free = {f: m for f, m in dataset.fields.items() if f not in taken}
    read = vit.pictures(free, settings.recipe.resolution)
    positions = grid_of(read)
    _check_positions(settings, vit.spec, positions)
    inherited = {"size": vit.size, "positions": positions, "pool": vit.pool}
    return dataset.with_fields(dataset.fields | read), inherited


def inherited_from_run(source: Encoder, dataset: Dataset, settings: Settings) -> dict[str, Any]:
    """The arguments of an encoder that it has from the run that it starts from.

    Args:
        source: The encoder of that run.
        dataset: With the fields to learn from, at the resolution of this run.
        settings: Of this run.

    Returns:
        Size, positions and pooling of a run that began with a vision transformer, as they are where
        none are set: without them its weights fit nothing. Of other runs relative and axial
        positions and the factors of blocks, without which its weights would compute something else.

    Raises:
        AmodalError: For settings that the weights do not fit.
    """
    has = encoder_config.arguments(source.spec)
    if settings.adapt is not None:
        return {}
    if not has["positions"].startswith(f"{GRID}:"):
        scale = has.get("layer_scale")
        inherited: dict[str, Any] = {"layer_scale": scale} if scale else {}
        shared = relative_side(has["positions"]) or BoxAugmentation.of(has["positions"])
        if shared and settings.positions is None:
            inherited["positions"] = has["positions"]
        return inherited
    now = VitWeights.fields_of(dataset.fields, without=settings.backbones or {})
    resized = any(f in source.fields and m != source.fields[f] for f, m in now.items())
    positions = grid_of(now) if resized else has["positions"]
    _check_size(settings, str(settings.init_from), str(has["size"]))
    _check_positions(settings, str(settings.init_from), positions)
    return {"size": has["size"], "positions": positions, "pool": has["pool"]}


def _check_size(settings: Settings, start: str, size: str) -> None:
    if settings.size not in (None, size):
        raise AmodalError(
            f"{start} is of size {size}, and the setting is {settings.size}: leave --size out"
        )


def _check_positions(settings: Settings, start: str, positions: str) -> None:
    if settings.positions not in (None, positions):
        raise AmodalError(
            f"{start} has positions {positions} here, as it was trained, and the setting is "
            f"{settings.positions}: leave --positions {settings.positions} out"
        )


def encoder_of_vit(
    vit: VitWeights,
    method: methods.MethodLike,
    dataset: Dataset,
    settings: Settings,
    inherited: dict[str, Any],
) -> Encoder:
    """An encoder with the weights of a vision transformer, to start from.

    Args:
        settings: Of the run.
        dataset, inherited: Of `start_from_vit`.
    """
    fields = vit.fields_of(dataset.fields, without=settings.backbones or {})
    arguments = {"trunk": "separate"} | methods.encoder_options(method)
    arguments |= inherited | settings.encoder
    return vit.encoder(fields, str(arguments["trunk"]), str(arguments["pool"]))


GPUS = ("gpu", "gpus", "nvidia", "rocm", "hip")
"""What people call the device that torch calls cuda."""


def _is_device(name: str) -> bool:
    """Whether torch knows a device by that name, on whatever machine."""
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def _unknown_device(name: str, hint: str = "") -> AmodalError:
    kind, _, number = str(name).partition(":")
    # a name of few letters is near to the wrong one
    meant = "cuda" + (f":{number}" if number.isdecimal() else "") if kind.lower() in GPUS else ""
    return unknown("device", name, ["auto", "cpu", "cuda"], hint, meant=meant)


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
        torch.empty(0, device=device) if device.type not in ("cpu", "cuda", "meta") else None
    except TypeError:
        raise _unknown_device(name) from None
    except (RuntimeError, NotImplementedError, AssertionError):
        hint = "torch cannot use it on this machine." if _is_device(name) else ""
        raise _unknown_device(name, hint) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise AmodalError("no CUDA device is available; take --device cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise AmodalError(f"there is no device {device}: CUDA has {count}, from cuda:0 on")
    if device.type == "meta":
        raise AmodalError("the device meta holds no values; take auto, cpu or cuda")
    return device
