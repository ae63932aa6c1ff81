"""Encoders on disk: a folder with config.json and model.safetensors.

Whole methods, as runs have them since format 2, are in `amodal.methods.saved`.
"""

from __future__ import annotations

import json
import math
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.core.regular_file import regular
from amodal.nn import config as encoder_config
from amodal.nn.bounded import Bounded
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import SupervisedHead, supervised_head
from amodal.nn.old_runs import new_names

FORMAT = 2
"""Of the config.json and spec.json that this version writes."""
READABLE_FORMATS = (1, 2)

Config = dict[str, Any]
"""What a config.json holds."""


def saved_encoder(folder: str | Path) -> tuple[Encoder, Config]:
    """The encoder of a run of format 1, in evaluation mode, and its config.json.

    Raises:
        AmodalError: For a folder without one, an unfinished run, and weights that are damaged or of
            another model.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise AmodalError(
            f"{folder} is not a run: there is no config.json in it. Give the folder that "
            "`amodal pretrain --out` named."
        )
    config = read_config(folder / "config.json")
    weights = checked_weights(folder, config)
    encoder = build_encoder(config, "encoder", folder, weights)
    fill(encoder, new_names(encoder, read_tensors(weights)), str(weights))
    return encoder.eval(), config


def checked_weights(folder: Path, config: Config) -> Path:
    """The file of a run's weights, after a check that it is there and as it was written.

    Raises:
        AmodalError: If it is not.
    """
    weights = folder / "model.safetensors"
    missing = "" if weights.exists() else "there is no model.safetensors"
    if not missing and config.get("weights_sha256") is None:
        missing = "its config.json names no weights: it was stopped while they were written"
    if missing:
        raise AmodalError(
            f"the run in {folder} has not been finished ({missing}); go on with it by "
            "`amodal pretrain … --resume`, or save the model anew"
        )
    try:
        with regular(weights).open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise AmodalError(f"{weights} cannot be read: {e}") from e
    if digest != config.get("weights_sha256"):
        raise AmodalError(
            f"{weights} is damaged or belongs to another run: its sha256 is not the one in "
            f"{folder / 'config.json'}"
        )
    return weights


def all_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of RUN/checkpoints, oldest first."""
    paths = (p for p in folder.glob("step-*") if p.name.removeprefix("step-").isdecimal())
    return sorted((p for p in paths if (p / "state.json").exists()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(checkpoint.name.removeprefix("step-"))


def unfinished_weights(folder: Path, config: Config) -> Path | None:
    """The weights of the latest checkpoint of a run that has not been finished.

    Returns:
        None for a finished run, for a config.json of no run, and where there is no checkpoint.
    """
    # a finished run whose weights are gone is damaged, and not unfinished
    if config.get("weights_sha256") is not None or not config.get("method"):
        return None
    found = all_checkpoints(folder / "checkpoints")
    weights = found[-1] / "model.safetensors" if found else None
    return weights if weights is not None and weights.exists() else None


def of_checkpoint(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a method among those of a checkpoint (`amodal.train.state.TrainingState`),
    with the average of the encoder's weights where there is one."""
    method = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
    average = {k for k in tensors if k.startswith("average.")}
    return method | {f"encoder.{k.removeprefix('average.')}": tensors[k] for k in average}


def build_encoder(config: Config, part: str, folder: Path, weights: Path) -> Encoder:
    """The encoder that config.json describes, with fresh weights.

    Args:
        config: The content of config.json.
        part: The key of the description.
        folder: Of the run, for messages.
        weights: The file of its weights. The encoder must be about as large, since config.json may
            come from a stranger.

    Raises:
        AmodalError: For a description of no encoder, or of a far larger one.
    """
    file = folder / "config.json"
    tensors, numbers = size_of_file(weights)
    try:
        with Bounded(tensors, numbers, str(file)):
            if config[part].get("others", 0) > tensors:
                raise AmodalError(
                    f"{file} says {config[part]['others']} encoders side by side; {weights} has "
                    f"{tensors} tensors"
                )
            return encoder_config.build(config[part])
    except AmodalError as e:
        raise AmodalError(f"{file} describes no encoder that can be built: {e}") from e
    except KeyError as e:
        raise format_error(file, config, str(e.args[0])) from e
    except (OverflowError, RecursionError, MemoryError, *BUILD_ERRORS) as e:
        raise AmodalError(
            f"{file} describes no encoder that can be built: {type(e).__name__}: {e}"
        ) from e


BUILD_ERRORS = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    RuntimeError,
    AssertionError,
    ArithmeticError,
    ImportError,
)
"""What building raises for values of the wrong kind, somewhere inside torch or ourselves."""


def size_of_file(weights: Path) -> tuple[int, int]:
    """(tensors, numbers in all of them) of a safetensors file, by its header.

    Raises:
        AmodalError: For a damaged file.
    """
    try:
        with safe_open(regular(weights), "pt") as file:
            # it is no dict, and cannot be iterated over
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    except Exception as e:  # the library raises its own kinds, and Rust's
        raise AmodalError(f"{weights} cannot be read: {e}") from e
    return len(shapes), sum(map(math.prod, shapes))


def read_tensors(weights: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file.

    Raises:
        AmodalError: For a damaged file.
    """
    try:
        return load_file(regular(weights))
    except Exception as e:  # the library raises its own kinds, and Rust's
        raise AmodalError(f"{weights} cannot be read: {e}") from e


def saved_head(folder: str | Path, encoder: Encoder, config: Config) -> SupervisedHead | None:
    """The supervised head of a run, in evaluation mode; None for a run without one.

    Args:
        folder: Of the run.
        encoder: The run's encoder, which says what the head reads.
        config: The content of its config.json.

    Raises:
        AmodalError: If the head is damaged.
    """
    if "answers" not in config:
        return None
    weights, file = Path(folder) / "head.safetensors", Path(folder) / "config.json"
    try:
        with Bounded(*size_of_file(weights), str(file)):
            head = supervised_head(encoder, **config["answers"])
    except (KeyError, OverflowError, *BUILD_ERRORS) as e:
        if isinstance(e, AmodalError):
            raise
        raise AmodalError(
            f"{file} describes no head that can be built: {type(e).__name__}: {e}"
        ) from e
    fill(head, read_tensors(weights), str(weights))
    return head.eval()


@torch.no_grad()
def fill(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Copy tensors into a module: every name and shape must agree.

    Args:
        module: Its parameters and buffers are overwritten.
        tensors: Name in the module's `state_dict` -> value.
        what: Where the tensors come from, for messages.

    Raises:
        AmodalError: If a name or a shape differs.
    """
    state = module.state_dict()
    # all is compared before anything is copied: an error leaves the module as it was
    missing, extra = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    mismatched = [k for k in state.keys() & tensors.keys() if state[k].shape != tensors[k].shape]
    if missing or extra or mismatched:
        parts = [
            f"{len(names)} {label} (first: {names[0]})"
            for label, names in (
                ("missing", missing),
                ("unexpected", extra),
                ("of another shape", mismatched),
            )
            if names
        ]
        matching = len(state) - len(missing) - len(mismatched)
        raise AmodalError(
            f"{what} holds the weights of another model: {', '.join(parts)}, {matching} of "
            f"{len(state)} match. Use the run's own configuration (size, sources, method options), "
            "or start a new run."
        )
    for name, value in state.items():
        copy_whole(value, tensors[name])


def copy_whole(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    if hasattr(target, "device_mesh"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    target.copy_(value)


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        file: The file.
        remedy: What to do about a broken one, for the message.

    Raises:
        AmodalError: If it cannot be read, or holds no object.
    """
    try:
        content = json.loads(regular(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise AmodalError(f"{file} cannot be read ({e}); {remedy}") from e
    if not isinstance(content, dict):
        raise AmodalError(f"{file} holds {type(content).__name__} instead of an object; {remedy}")
    return content


def read_config(file: Path) -> Config:
    """A run's config.json.

    Raises:
        AmodalError: For a damaged one, and for a format that this version does not read.
    """
    config = read_json(file, "restore it from a copy, or remove its folder and train anew")
    if config.get("format", FORMAT) not in READABLE_FORMATS:
        raise format_error(file, config)
    return config


def format_error(file: Path, config: Config, missing: str = "") -> AmodalError:
    """The error for a config.json of another format, or one that lacks the entry `missing`."""
    lacks = f" and lacks {missing!r}" if missing else ""
    return AmodalError(
        f"{file} has format {config.get('format', 'unknown')}{lacks}; this version of amodal reads "
        "formats 1 and 2. Use the version that wrote it, or train anew."
    )


def weights_digest(module: nn.Module) -> str:
    """A fingerprint of a module that was never saved: of its names and weights."""
    digest = sha256()
    for name, value in module.state_dict().items():
        digest.update(
            name.encode() + value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]
