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


def latest(folder: Path) -> Path | None:
    found = everything(folder)
    return found[-1] if found else None


def load(path: Path, method: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Put weights and moments back; returns the state. A checkpoint of another model is an error that names the differences."""
    tensors = load_file(path / "model.safetensors")
    fill(method, tensors, str(path))
    load_optimizer(method, optimizer, load_file(path / "optimizer.safetensors"))
    return json.loads((path / "state.json").read_text())


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
