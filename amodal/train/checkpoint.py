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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.nn.saved import copy_whole, fill
from amodal.train import distributed

KEEP = 2  # the newest ones


def save(folder: Path, step: int, method: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> Path:
    """Write a checkpoint. A full disk or a kill on the way leaves the older ones as they were."""
    model = {k: distributed.whole(v).detach().cpu().contiguous() for k, v in method.state_dict().items()}
    moments = {k: v.cpu().contiguous() for k, v in optimizer_tensors(method, optimizer).items()}
    final = folder / f"step-{step:08d}"
    if distributed.rank() == 0:
        draft = folder / f".{final.name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
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
    return sorted(p for p in folder.glob("step-*") if (p / "state.json").exists())


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def latest(folder: Path) -> Path | None:
    found = everything(folder)
    return found[-1] if found else None


def load(path: Path, method: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Put weights and moments back; returns the state. A checkpoint of another model is an error that names the differences."""
    tensors = load_file(path / "model.safetensors")
    fill(method, tensors, str(path))
    load_optimizer(method, optimizer, load_file(path / "optimizer.safetensors"))
    return json.loads((path / "state.json").read_text())


def optimizer_tensors(method: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`parameter name/moment` -> tensor."""
    names = {p: n for n, p in method.named_parameters()}
    return {
        f"{names[p]}/{k}": distributed.whole(v).detach()
        for p, moments in optimizer.state.items()
        for k, v in moments.items()
    }


def load_optimizer(method: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    params = dict(method.named_parameters())
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
