"""Checkpoints: safetensors and JSON, written whole or not at all, never pickle.

RUN/checkpoints/step-00000500/{model,optimizer}.safetensors, state.json
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.nn.saved import copy_whole, fill, read_json, read_tensors
from amodal.train import distributed

KEEP = 2  # the newest ones


Optimizers = Sequence[torch.optim.Optimizer]


def save(folder: Path, step: int, method: nn.Module, optimizers: Optimizers, state: dict) -> Path:
    """Write a checkpoint. A full disk or a kill on the way leaves the older ones as they were."""
    model = {
        k: distributed.whole(v).detach().cpu().contiguous() for k, v in method.state_dict().items()
    }
    tensors, scalars = optimizer_state(method, optimizers)
    moments = {k: v.cpu().contiguous() for k, v in tensors.items()}
    state = (
        state | {"step": step, "moments": len(moments)} | ({"scalars": scalars} if scalars else {})
    )
    final = folder / f"step-{step:08d}"
    if distributed.rank() == 0:
        draft = folder / f".{final.name}.draft"
        for left in folder.glob(".step-*.draft"):  # by a killed run
            shutil.rmtree(left, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            save_file(model, draft / "model.safetensors")
            save_file(moments, draft / "optimizer.safetensors")
            (draft / "state.json").write_text(json.dumps(state, indent=1))
            sync(draft)
            shutil.rmtree(final, ignore_errors=True)
            draft.rename(final)
            sync(folder)
        except (OSError, SafetensorError) as e:
            shutil.rmtree(draft, ignore_errors=True)
            last = latest(folder)
            kept = f"the last good one is {last}" if last else "there is no earlier one"
            raise AmodalError(
                f"could not write a checkpoint to {final}: {e}; {kept}. Free some space and add --resume."
            ) from e
        for old in everything(folder)[:-KEEP]:
            shutil.rmtree(old)
    distributed.barrier()
    return final


def everything(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    named = (p for p in folder.glob("step-*") if p.name.removeprefix("step-").isdecimal())
    return sorted((p for p in named if (p / "state.json").exists()), key=step_of)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def latest(folder: Path) -> Path | None:
    found = everything(folder)
    return found[-1] if found else None


def load(path: Path, method: nn.Module, optimizers: Optimizers) -> dict:
    """Put weights and moments back; returns the state.

    A checkpoint of another model is an error that names the differences.
    """
    state = checked(path, read_json(path / "state.json", _mend(path)))
    try:
        tensors, moments = (
            read_tensors(path / f"{name}.safetensors") for name in ("model", "optimizer")
        )
    except AmodalError as e:
        raise AmodalError(f"{e}; {_mend(path)}") from e
    fill(method, tensors, str(path))
    load_optimizers(method, optimizers, moments, state, path)
    return state


def checked(path: Path, state: dict) -> dict:
    """What state.json must say: step, seconds and the state of torch's generator.

    Raises AmodalError where it says something else.
    """
    try:
        rng = torch.tensor(bytearray.fromhex(state["rng"]), dtype=torch.uint8)
        torch.Generator().set_state(rng)
        seconds = float(state["seconds"])
        if type(state["step"]) is not int or state["step"] != step_of(path):
            raise ValueError(f"it is of step {state['step']!r}")
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"it says {seconds} seconds")
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as e:
        raise AmodalError(
            f"{path / 'state.json'} is damaged ({type(e).__name__}: {e}); {_mend(path)}"
        ) from e
    return state


def _mend(path: Path) -> str:
    before = [p for p in everything(path.parent) if p != path]
    kept = (
        f"then --resume goes on from {before[-1].name}"
        if before
        else "there is no other, so train again into another folder"
    )
    return f"remove the folder {path}; {kept}"


def optimizer_state(
    method: nn.Module, optimizers: Optimizers
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """All that optimizers hold.

    Returns:
        `parameter/moment` and `param_groups.N/value` -> tensor; the same -> number, for what is no
        tensor.
    """
    names = {p: n for n, p in method.named_parameters()}
    entries = {
        f"{names[p]}/{k}": v
        for optimizer in optimizers
        for p, moments in optimizer.state.items()
        for k, v in moments.items()
    }
    for i, group in enumerate(groups_of(optimizers)):  # LAMB counts its steps there
        entries |= {f"{GROUP}{i}/{k}": v for k, v in group.items() if isinstance(v, Tensor)}
    tensors = {
        k: distributed.whole(v).detach() for k, v in entries.items() if isinstance(v, Tensor)
    }
    return tensors, {k: v for k, v in entries.items() if not isinstance(v, Tensor)}


def groups_of(optimizers: Optimizers) -> list[dict]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]


GROUP = "param_groups."
ADAMW = {"step", "exp_avg", "exp_avg_sq"}
"""What AdamW holds of a parameter."""


def load_optimizers(
    method: nn.Module, optimizers: Optimizers, tensors: dict[str, Tensor], state: dict, path: Path
) -> None:
    """Put what `optimizer_state` gave back.

    Raises AmodalError for what is not of this method and these optimizers.
    """
    params, scalars = dict(method.named_parameters()), state.get("scalars", {})
    if not isinstance(scalars, dict) or not all(
        isinstance(v, (int, float)) for v in scalars.values()
    ):
        raise AmodalError(
            f"{path / 'state.json'} is damaged: scalars are no numbers; {_mend(path)}"
        )
    _check_moments(params, optimizers, tensors, scalars, path)
    if state.get("moments", len(tensors)) != len(tensors):
        raise AmodalError(
            f"{path / 'optimizer.safetensors'} is damaged: moments are missing; {_mend(path)}"
        )
    groups, owner_of = groups_of(optimizers), {}
    for optimizer in optimizers:
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
    params: dict, optimizers: Optimizers, tensors: dict, scalars: dict, path: Path
) -> None:
    groups, met = groups_of(optimizers), {}
    learning = {
        id(p): isinstance(o, torch.optim.AdamW)
        for o in optimizers
        for g in o.param_groups
        for p in g["params"]
    }
    for name, value in {**tensors, **scalars}.items():
        owner, _, moment = name.rpartition("/")
        if owner.startswith(GROUP):
            fits = owner.removeprefix(GROUP).isdecimal() and int(owner.removeprefix(GROUP)) < len(
                groups
            )
        else:
            met.setdefault(owner, set()).add(moment)
            p = params.get(owner)
            shape = tuple(getattr(value, "shape", ()))
            fits = (
                p is not None and id(p) in learning and shape in _shapes(p, moment, learning[id(p)])
            )
        if not fits:
            shape = tuple(getattr(value, "shape", ()))
            raise AmodalError(
                f"{path / 'optimizer.safetensors'} does not fit this run: {name} {shape}; {_mend(path)}"
            )
    short = next((o for o, m in met.items() if learning[id(params[o])] and m != ADAMW), None)
    if short:
        raise AmodalError(
            f"{path / 'optimizer.safetensors'} is damaged: of {short} it has {sorted(met[short])}; {_mend(path)}"
        )


def _shapes(p: Tensor, moment: str, adamw: bool) -> tuple[tuple[int, ...], ...]:
    """The shapes that a moment of a parameter may have.

    Adafactor holds means of rows and of columns.
    """
    shape = tuple(p.shape)
    if adamw:
        return ((),) if moment == "step" else (shape,)
    factored = [shape[:i] + shape[i + 1 :] for i in range(len(shape))]
    return (shape, (), *factored)


def _placed(value: Tensor, p: Tensor, moment: str, fused: bool) -> Tensor:
    """A moment where its optimizer wants it.

    Beside the parameter, but counters that no fused kernel reads on the CPU.
    """
    if value.shape == p.shape and moment != "step":
        place = torch.zeros_like(p)
    else:
        place = torch.zeros_like(value, device=p.device if fused or value.dim() else "cpu")
    copy_whole(place, value)
    return place


def sync(folder: Path) -> None:
    """Force a folder and the files in it to the disk."""
    for path in [*folder.iterdir(), folder]:
        if path.is_dir() and path != folder:
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
