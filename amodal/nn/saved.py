"""Encoders on disk: a folder with config.json and model.safetensors, as a run, `Model.save` and `amodal export` leave it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.nn import config as encoder_config
from amodal.nn.answers import Answers, answers_of
from amodal.nn.encoder import Encoder

FORMAT = 1  # of config.json


def saved(folder: str | Path) -> tuple[Encoder, dict]:
    """The encoder in a folder, in evaluation mode, and its config.json. Raises AmodalError for a folder that holds none, an
    unfinished run, and weights that are damaged or not of this config."""
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise AmodalError(
            f"{folder} is not a run: there is no config.json in it. Give the folder that `amodal pretrain --out` named."
        )
    config, weights = read_config(folder / "config.json"), folder / "model.safetensors"
    if not weights.exists():
        raise AmodalError(
            f"the run in {folder} has not been finished (there is no model.safetensors); go on with it by `amodal pretrain … --resume`"
        )
    if sha256(weights.read_bytes()).hexdigest() != config.get("weights_sha256"):
        raise AmodalError(
            f"{weights} is damaged or belongs to another run: its sha256 is not the one in {folder / 'config.json'}"
        )
    try:
        encoder = encoder_config.build(config["encoder"])
    except KeyError as e:
        raise other_format(folder / "config.json", config, str(e.args[0])) from e
    try:
        fill(encoder, load_file(weights), str(weights))
    except SafetensorError as e:
        raise AmodalError(f"{weights} cannot be read: {e}") from e
    return encoder.eval(), config


def saved_head(folder: str | Path, encoder: Encoder, config: dict) -> Answers | None:
    """The head that was learnt beside this encoder, in evaluation mode; None for a run without. Raises AmodalError if it is damaged."""
    if "answers" not in config:
        return None
    head, weights = answers_of(encoder, **config["answers"]), Path(folder) / "head.safetensors"
    try:
        fill(head, load_file(weights), str(weights))
    except (OSError, SafetensorError) as e:
        raise AmodalError(f"{weights} cannot be read: {e}") from e
    return head.eval()


def frozen(folder: str | Path) -> Encoder:
    """The encoder in a folder as a teacher or a reference that never learns."""
    return saved(folder)[0].requires_grad_(False)


@torch.no_grad()
def fill(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Copy tensors into the module, strictly: every name and shape must agree."""
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    other = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or extra or other:
        parts = [
            f"{len(names)} {label} (first: {names[0]})"
            for label, names in (("missing", missing), ("unexpected", extra), ("of another shape", other))
            if names
        ]
        raise AmodalError(
            f"{what} holds the weights of another model: {', '.join(parts)}, {len(own) - len(missing) - len(other)} of {len(own)} match. "
            "Use the run's own configuration (size, sources, method options), or start a new run."
        )
    for name, value in own.items():
        copy_whole(value, tensors[name])


def copy_whole(mine: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    if hasattr(mine, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(mine.device), mine.device_mesh, mine.placements)
    mine.copy_(value)


def read_json(file: Path, mend: str) -> dict:
    """The object in a JSON file. Raises AmodalError that says what is broken, with `mend`: what to do about it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise AmodalError(f"{file} cannot be read ({e}); {mend}") from e
    if not isinstance(found, dict):
        raise AmodalError(f"{file} holds {type(found).__name__} instead of an object; {mend}")
    return found


def read_config(file: Path) -> dict:
    """A run's config.json, of the format that this version reads."""
    config = read_json(file, "restore it from a copy, or remove its folder and train again")
    if config.get("format", FORMAT) != FORMAT:
        raise other_format(file, config)
    return config


def other_format(file: Path, config: dict, missing: str = "") -> AmodalError:
    lacks = f" and lacks {missing!r}" if missing else ""
    return AmodalError(
        f"{file} has format {config.get('format', 'unknown')}{lacks}; this version of amodal reads format {FORMAT}. "
        "Use the version that wrote it, or train again."
    )
