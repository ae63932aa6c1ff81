"""Checkpoints: safetensors and JSON, written whole or not at all, never pickle.

RUN/checkpoints/step-00000500/{model,optimizer}.safetensors, state.json
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.nn.saved import all_checkpoints as all_checkpoints
from amodal.nn.saved import copy_whole, fill, read_json, read_tensors
from amodal.nn.saved import step_of as step_of
from amodal.train import distributed

KEEP = 2
"""Checkpoints that are kept, the newest ones."""
GROUP = "param_groups."
"""Prefix of the entries of parameter groups."""
ADAMW = {"step", "exp_avg", "exp_avg_sq"}
"""The state of AdamW for a parameter."""

State = dict[str, Any]
"""The content of state.json."""
Optimizers = Sequence[torch.optim.Optimizer]


def save(
    folder: Path,
    step: int,
    method: nn.Module,
    optimizers: Optimizers,
    state: State,
    keep: int | None = None,
) -> Path:
    """Write a checkpoint. A full disk or a kill leaves the older ones unchanged.

    Args:
        folder: RUN/checkpoints.
        state: The entries of state.json beside `step`.
        keep: A step whose checkpoint stays, beside the newest ones.

    Returns:
        The folder of the checkpoint.

    Raises:
        AmodalError: If it cannot be written.
    """
    # on every rank: `full_tensor` is a collective for sharded parameters
    model = {
        k: distributed.full_tensor(v).detach().cpu().contiguous()
        for k, v in method.state_dict().items()
    }
    tensors, scalars = optimizer_state(method, optimizers)
    moments = {k: v.cpu().contiguous() for k, v in tensors.items()}
    state = (
        state | {"step": step, "moments": len(moments)} | ({"scalars": scalars} if scalars else {})
    )
    final = folder / f"step-{step:08d}"
    if distributed.rank() == 0:
        draft = folder / f".{final.name}.draft"
        for stale in folder.glob(".step-*.draft"):  # of a killed run
            shutil.rmtree(stale, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            save_file(model, draft / "model.safetensors")
            save_file(moments, draft / "optimizer.safetensors")
            (draft / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
            # The content reaches the disk before the name does. A rename does not replace a folder
            # that is not empty, so one of this step goes first; older checkpoints are still there
            # if a kill comes now.
            sync(draft)
            shutil.rmtree(final, ignore_errors=True)
            draft.rename(final)
            sync(folder)
        except (OSError, SafetensorError) as e:
            shutil.rmtree(draft, ignore_errors=True)
            last = latest(folder)
            note = f"the last good one is {last}" if last else "there is no earlier one"
            raise AmodalError(
                f"could not write a checkpoint to {final}: {e}; {note}. "
                "Free some space and add --resume."
            ) from e
        # only now, that the new one is complete
        for old in all_checkpoints(folder)[:-KEEP]:
            if step_of(old) != keep:
                shutil.rmtree(old)
    distributed.barrier()
    return final


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, None if there is none."""
    paths = all_checkpoints(folder)
    return paths[-1] if paths else None


def load(path: Path, method: nn.Module, optimizers: Optimizers) -> State:
    """Load weights and optimizer states.

    Returns:
        The content of state.json.

    Raises:
        AmodalError: If the checkpoint is damaged, or is of another model; it names the differences.
    """
    state = check_state(path, read_json(path / "state.json", _advice(path)))
    try:
        tensors, moments = (
            read_tensors(path / f"{name}.safetensors") for name in ("model", "optimizer")
        )
    except AmodalError as e:
        raise AmodalError(f"{e}; {_advice(path)}") from e
    fill(method, tensors, str(path))
    load_optimizers(method, optimizers, moments, state, path)
    return state


def check_state(path: Path, state: State) -> State:
    """Check that state.json has step, seconds and the state of torch's generator.

    Raises:
        AmodalError: If one of them is missing or invalid.
    """
    try:
        rng = torch.tensor(bytearray.fromhex(state["rng"]), dtype=torch.uint8)
        torch.Generator().set_state(rng)
        seconds = float(state["seconds"])
        if type(state["step"]) is not int or state["step"] != step_of(path):
            raise ValueError(f"its step is {state['step']!r}")
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"its seconds are {seconds}")
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as e:
        raise AmodalError(
            f"{path / 'state.json'} is damaged ({type(e).__name__}: {e}); {_advice(path)}"
        ) from e
    return state


def _advice(path: Path) -> str:
    others = [p for p in all_checkpoints(path.parent) if p != path]
    then = (
        f"then --resume continues from {others[-1].name}"
        if others
        else "there is no other, so start a new run in another folder"
    )
    return f"remove the folder {path}; {then}"


def optimizer_state(
    method: nn.Module, optimizers: Optimizers
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The state of all optimizers under flat names.

    Returns:
        `parameter/moment` and `param_groups.N/value` -> tensor; and the same for entries that are
        Python numbers.
    """
    names: dict[Tensor, str] = {p: n for n, p in method.named_parameters()}
    entries = {
        f"{names[p]}/{k}": v
        for optimizer in optimizers
        for p, moments in optimizer.state.items()
        for k, v in moments.items()
    }
    for i, group in enumerate(groups_of(optimizers)):  # LAMB counts its steps there
        entries |= {f"{GROUP}{i}/{k}": v for k, v in group.items() if isinstance(v, Tensor)}
    tensors = {
        k: distributed.full_tensor(v).detach() for k, v in entries.items() if isinstance(v, Tensor)
    }
    return tensors, {k: v for k, v in entries.items() if not isinstance(v, Tensor)}


def groups_of(optimizers: Optimizers) -> list[dict[str, Any]]:
    """The parameter groups of all optimizers, in order."""
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def load_optimizers(
    method: nn.Module, optimizers: Optimizers, tensors: dict[str, Tensor], state: State, path: Path
) -> None:
    """Load what `optimizer_state` returned.

    Args:
        tensors: Its tensors. Its numbers are `state["scalars"]`.
        path: Of the checkpoint, for messages.

    Raises:
        AmodalError: If they do not fit this method and these optimizers.
    """
    params, scalars = dict(method.named_parameters()), state.get("scalars", {})
    if not isinstance(scalars, dict) or not all(
        isinstance(v, (int, float)) for v in scalars.values()
    ):
        raise AmodalError(
            f"{path / 'state.json'} is damaged: its scalars are not numbers; {_advice(path)}"
        )
    _check_moments(params, optimizers, tensors, scalars, path)
    if state.get("moments", len(tensors)) != len(tensors):
        raise AmodalError(
            f"{path / 'optimizer.safetensors'} is damaged: moments are missing; {_advice(path)}"
        )
    groups = groups_of(optimizers)
    owner_of: dict[Tensor, torch.optim.Optimizer] = {}
    for optimizer in optimizers:
        # moments that the checkpoint lacks must not stay
        optimizer.state.clear()
        owner_of |= {p: optimizer for group in optimizer.param_groups for p in group["params"]}
    for name, value in {**tensors, **scalars}.items():
        owner, _, moment = name.rpartition("/")
        if owner.startswith(GROUP):
            groups[int(owner.removeprefix(GROUP))][moment] = value
            continue
        p = params[owner]
        if isinstance(value, Tensor):
            value = _placed(value, p, moment, fused=isinstance(owner_of[p], torch.optim.AdamW))
        owner_of[p].state[p][moment] = value


def _check_moments(
    params: Mapping[str, Tensor],
    optimizers: Optimizers,
    tensors: Mapping[str, Tensor],
    scalars: Mapping[str, float],
    path: Path,
) -> None:
    groups = groups_of(optimizers)
    moments: dict[str, set[str]] = {}  # parameter -> the names of its moments
    is_adamw = {
        id(p): isinstance(o, torch.optim.AdamW)
        for o in optimizers
        for g in o.param_groups
        for p in g["params"]
    }
    values: dict[str, Tensor | float] = {**tensors, **scalars}
    for name, value in values.items():
        owner, _, moment = name.rpartition("/")
        if owner.startswith(GROUP):
            number = owner.removeprefix(GROUP)
            fits = number.isdecimal() and int(number) < len(groups)
        else:
            moments.setdefault(owner, set()).add(moment)
            p = params.get(owner)
            fits = (
                p is not None
                and id(p) in is_adamw
                and _shape(value) in _shapes(p, moment, is_adamw[id(p)])
            )
        if not fits:
            raise AmodalError(
                f"{path / 'optimizer.safetensors'} does not fit this run: {name} {_shape(value)}; "
                f"{_advice(path)}"
            )
    incomplete = next(
        (o for o, m in moments.items() if is_adamw[id(params[o])] and m != ADAMW), None
    )
    if incomplete:
        raise AmodalError(
            f"{path / 'optimizer.safetensors'} is damaged: of {incomplete} it has "
            f"{sorted(moments[incomplete])}; {_advice(path)}"
        )


def _shape(value: Tensor | float) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _shapes(p: Tensor, moment: str, adamw: bool) -> tuple[tuple[int, ...], ...]:
    """The shapes that a moment of a parameter may have; Adafactor's are factored."""
    shape = tuple(p.shape)
    if adamw:
        return ((),) if moment == "step" else (shape,)
    factored = [shape[:i] + shape[i + 1 :] for i in range(len(shape))]
    return (shape, (), *factored)


def _placed(value: Tensor, p: Tensor, moment: str, fused: bool) -> Tensor:
    """A moment on the device, and sharded, as its optimizer needs it.

    Moments lie beside the parameter. Step counters lie on the CPU unless a fused kernel reads them.
    """
    if value.shape == p.shape and moment != "step":
        target = torch.zeros_like(p)
    else:
        target = torch.zeros_like(value, device=p.device if fused or value.dim() else "cpu")
    copy_whole(target, value)
    return target


def sync(folder: Path) -> None:
    """Flush a folder and its files to the disk."""
    for path in [*folder.iterdir(), folder]:
        if path.is_dir() and path != folder:
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
