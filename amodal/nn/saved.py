"""Encoders on disk: a folder with config.json and model.safetensors, as a run, `Model.save` and
`amodal export` leave it."""

from __future__ import annotations

import json
import math
from hashlib import file_digest
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.nn import config as encoder_config
from amodal.nn.bounded import Bounded
from amodal.nn.config import is_old
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import SupervisedHead, supervised_head
from amodal.nn.old_runs import new_names

FORMAT = 2  # of config.json and spec.json
READS = (1, 2)


def saved_encoder(folder: str | Path) -> tuple[Encoder, dict]:
    """The encoder in a folder, in evaluation mode, and its config.json. Raises AmodalError for a
    folder that holds none, an unfinished run, and weights that are damaged or not of this config.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise AmodalError(
            f"{folder} is not a run: there is no config.json in it. Give the folder that `amodal pretrain --out` named."
        )
    config = read_config(folder / "config.json")
    weights = whole_weights(folder, config)
    encoder = built(config, "encoder", folder, weights)
    tensors = read_tensors(weights)
    fill(
        encoder, new_names(encoder, tensors) if is_old(config["encoder"]) else tensors, str(weights)
    )
    return encoder.eval(), config


def whole_weights(folder: Path, config: dict) -> Path:
    """The file of a run's weights, which is there and as it was written. Raises AmodalError
    otherwise."""
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise AmodalError(
            f"the run in {folder} has not been finished (there is no model.safetensors); go on with it by `amodal pretrain … --resume`"
        )
    with weights.open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
    if found != config.get("weights_sha256"):
        raise AmodalError(
            f"{weights} is damaged or belongs to another run: its sha256 is not the one in {folder / 'config.json'}"
        )
    return weights


def built(config: dict, part: str, folder: Path, weights: Path) -> Encoder:
    """The encoder that config.json describes under the name `part`, no larger than the file of its
    weights bears out."""
    file = folder / "config.json"
    tensors, numbers = size_of_file(weights)
    try:
        with Bounded(tensors, numbers, str(file)):
            if config[part].get("others", 0) > tensors:
                raise AmodalError(
                    f"{file} says {config[part]['others']} encoders side by side; {weights} has {tensors} tensors"
                )
            return encoder_config.build(config[part])
    except AmodalError as e:
        raise AmodalError(f"{file} describes no encoder that can be built: {e}") from e
    except KeyError as e:
        raise other_format(file, config, str(e.args[0])) from e
    except (OverflowError, RecursionError, MemoryError, *MADE_UP) as e:
        raise AmodalError(
            f"{file} describes no encoder that can be built: {type(e).__name__}: {e}"
        ) from e


MADE_UP = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    RuntimeError,
    AssertionError,
    ArithmeticError,
    ImportError,
)
"""What building by values of the wrong kind raises, somewhere inside torch or ourselves."""


def size_of_file(weights: Path) -> tuple[int, int]:
    """Tensors in a safetensors file, and numbers in all of them, by its header. Raises AmodalError."""
    try:
        with safe_open(weights, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (it is no dict)
    except Exception as e:  # the library raises its own kinds, and Rust's
        raise AmodalError(f"{weights} cannot be read: {e}") from e
    return len(shapes), sum(map(math.prod, shapes))


def read_tensors(weights: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file. Raises AmodalError where it is damaged."""
    try:
        return load_file(weights)
    except Exception as e:  # the library raises its own kinds, and Rust's
        raise AmodalError(f"{weights} cannot be read: {e}") from e


def saved_head(folder: str | Path, encoder: Encoder, config: dict) -> SupervisedHead | None:
    """The head that was learnt beside this encoder, in evaluation mode; None for a run without.
    Raises AmodalError if it is damaged."""
    if "answers" not in config:
        return None
    weights, file = Path(folder) / "head.safetensors", Path(folder) / "config.json"
    try:
        with Bounded(*size_of_file(weights), str(file)):
            head = supervised_head(encoder, **config["answers"])
    except (KeyError, OverflowError, *MADE_UP) as e:
        if isinstance(e, AmodalError):
            raise
        raise AmodalError(
            f"{file} describes no head that can be built: {type(e).__name__}: {e}"
        ) from e
    fill(head, read_tensors(weights), str(weights))
    return head.eval()


@torch.no_grad()
def fill(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Copy tensors into the module, strictly: every name and shape must agree."""
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    other = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or extra or other:
        parts = [
            f"{len(names)} {label} (first: {names[0]})"
            for label, names in (
                ("missing", missing),
                ("unexpected", extra),
                ("of another shape", other),
            )
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
    """The object in a JSON file. Raises AmodalError that says what is broken, with `mend`: what to
    do about it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise AmodalError(f"{file} cannot be read ({e}); {mend}") from e
    if not isinstance(found, dict):
        raise AmodalError(f"{file} holds {type(found).__name__} instead of an object; {mend}")
    return found


def read_config(file: Path) -> dict:
    """A run's config.json, of the format that this version reads."""
    config = read_json(file, "restore it from a copy, or remove its folder and train again")
    if config.get("format", FORMAT) not in READS:
        raise other_format(file, config)
    return config


def other_format(file: Path, config: dict, missing: str = "") -> AmodalError:
    lacks = f" and lacks {missing!r}" if missing else ""
    return AmodalError(
        f"{file} has format {config.get('format', 'unknown')}{lacks}; this version of amodal reads formats 1 and 2. "
        "Use the version that wrote it, or train again."
    )
