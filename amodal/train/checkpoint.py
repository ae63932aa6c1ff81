"""Checkpoints: safetensors and JSON, written whole or not at all, never pickle.

RUN/checkpoints/step-00000500/{model,optimizer}.safetensors, state.json
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.nn.saved import copy_whole, fill, read_json, read_tensors
from amodal.train import distributed

KEEP = 2  # the newest ones


def save(folder: Path, step: int, method: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> Path:
    """Write a checkpoint. A full disk or a kill on the way leaves the older ones as they were."""
    model = {k: distributed.whole(v).detach().cpu().contiguous() for k, v in method.state_dict().items()}
    moments = {k: v.cpu().contiguous() for k, v in optimizer_tensors(method, optimizer).items()}
    final = folder / f"step-{step:08d}"
    if distributed.rank() == 0:
        draft = folder / f".{final.name}.draft"
        for left in folder.glob(".step-*.draft"):  # by a killed run
            shutil.rmtree(left, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
            save_file(model, draft / "model.safetensors")
            save_file(moments, draft / "optimizer.safetensors")
            (draft / "state.json").write_text(json.dumps(state | {"step": step}, indent=1))
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


def load(path: Path, method: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Put weights and moments back; returns the state. A checkpoint of another model is an error that names the differences."""
    state = checked(path, read_json(path / "state.json", _mend(path)))
    try:
        tensors, moments = (read_tensors(path / f"{name}.safetensors") for name in ("model", "optimizer"))
    except AmodalError as e:
        raise AmodalError(f"{e}; {_mend(path)}") from e
    fill(method, tensors, str(path))
    load_optimizer(method, optimizer, moments, path)
    return state


def checked(path: Path, state: dict) -> dict:
    """What state.json must say: step, seconds and the state of torch's generator. Raises AmodalError where it says something else."""
    try:
        rng = torch.tensor(bytearray.fromhex(state["rng"]), dtype=torch.uint8)
        torch.Generator().set_state(rng)
        seconds = float(state["seconds"])
        if type(state["step"]) is not int or state["step"] != step_of(path):
            raise ValueError(f"it is of step {state['step']!r}")
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"it says {seconds} seconds")
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as e:
        raise AmodalError(f"{path / 'state.json'} is damaged ({type(e).__name__}: {e}); {_mend(path)}") from e
    return state


def _mend(path: Path) -> str:
    before = [p for p in everything(path.parent) if p != path]
    kept = (
        f"then --resume goes on from {before[-1].name}"
        if before
        else "there is no other, so train again into another folder"
    )
    return f"remove the folder {path}; {kept}"


def optimizer_tensors(method: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`parameter name/moment` -> tensor."""
    names = {p: n for n, p in method.named_parameters()}
    return {
        f"{names[p]}/{k}": distributed.whole(v).detach()
        for p, moments in optimizer.state.items()
        for k, v in moments.items()
    }


MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
"""What AdamW keeps of a parameter."""


def load_optimizer(method: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], path: Path) -> None:
    params, met = dict(method.named_parameters()), {}
    for name, value in tensors.items():
        owner, _, moment = name.rpartition("/")
        met.setdefault(owner, set()).add(moment)
        wanted = () if moment == "step" else params[owner].shape if owner in params else None
        if wanted is None or tuple(value.shape) != tuple(wanted):
            raise AmodalError(
                f"{path / 'optimizer.safetensors'} does not fit this run: {name} {tuple(value.shape)}; {_mend(path)}"
            )
    if short := next((owner for owner, moments in met.items() if moments != MOMENTS), None):
        raise AmodalError(
            f"{path / 'optimizer.safetensors'} is damaged: of {short} it has {sorted(met[short])}; {_mend(path)}"
        )
    optimizer.state.clear()
    for name, value in tensors.items():
        owner, _, moment = name.rpartition("/")
        p = params[owner]
        moves = value.shape == p.shape and moment != "step"
        place = torch.zeros_like(p) if moves else torch.zeros_like(value, device=p.device)
        copy_whole(place, value)
        optimizer.state[p][moment] = place


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
