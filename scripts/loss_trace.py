"""The trace of every method by the code of this revision; see `scripts/same_loss.py`.

python -m scripts.loss_trace OUT ONLY STEPS [BASE_TRACES]    in the root of the revision

It moves with the code: whatever this revision calls its parts, the trace has the same form.
OUT/METHOD.safetensors holds
  initial/NAME       every parameter and buffer before the first step
  fixed/NAME         those of them that begin the same with every seed, as this revision begins
  STEP/term/NAME     each term of the loss
  STEP/gradient/NAME the gradient of each parameter that has one
  STEP/after/NAME    every parameter and buffer after the step
  embed/SOURCE       what the encoder makes of other records at the end
for some steps of every stage, or OUT/METHOD.error why there is none. BASE_TRACES: the traces of an
older revision, with whose initial values the methods begin. OUT/METHOD.json then maps each name of
that revision to its name here.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import amodal
from amodal import data, methods
from amodal.core.clock import Clock
from amodal.core.protocols import FitsStatistics, Refreshes, Staged
from amodal.methods.contract import Method
from amodal.nn.old_runs import old_name
from amodal.train.loop import embed_all
from amodal.train.optim import adamw
from amodal.train.precision import context
from amodal.train.step import gradients
from tests.methods.bench import FIELDS, batch, fields, method, raw

ROWS = 40
Tensors = dict[str, torch.Tensor]


def everything(m: torch.nn.Module) -> Tensors:
    """Parameters and buffers, those too that are not saved."""
    return dict(m.named_parameters()) | dict(m.named_buffers())


def copies(tensors: Tensors, kind: str) -> Tensors:
    return {
        f"{kind}/{name}": value.detach().clone().contiguous() for name, value in tensors.items()
    }


def fixed(name: str, m: torch.nn.Module) -> Tensors:
    """What begins the same with every seed, such as a temperature."""
    other = everything(method(name, seed=1))
    return {n: v for n, v in everything(m).items() if torch.equal(v, other[n])}


def records() -> data.Dataset:
    import numpy as np

    rng = np.random.default_rng(0)
    columns = {
        s: [raw(s, rng) if (i + k) % 4 else None for i in range(ROWS)] for k, s in enumerate(FIELDS)
    }
    kinds = [None if i % 4 == 3 else f"kind {i % 3}" for i in range(ROWS)]
    return data.open(columns | {"kind": kinds}).with_fields(fields())


@torch.no_grad()
def begin_with(m: Method, base: Tensors) -> dict[str, str]:
    """Fill the method with the initial values of an older revision.

    Returns: the name there -> the name here, of all its parameters and buffers.
    Raises: ValueError where a value has no place here, or a place here no value.
    """
    theirs = {
        name.removeprefix("initial/"): v for name, v in base.items() if name.startswith("initial/")
    }
    mine = everything(m)
    here = {old_name(m, name): name for name in mine}
    names = {name: here.get(name, name) for name in theirs}
    lost, empty = (
        sorted(set(names.values()) - mine.keys()),
        sorted(mine.keys() - set(names.values())),
    )
    if lost or empty:
        raise ValueError(f"names differ: here there is no {lost[:5]}, there is no {empty[:5]}")
    for name, value in theirs.items():
        if mine[names[name]].shape != value.shape:
            raise ValueError(
                f"{name} is {tuple(value.shape)} there and {tuple(mine[names[name]].shape)} here"
            )
        mine[names[name]].copy_(value)
    return names


def trace(m: Method, steps: int, all_records: data.Dataset) -> Tensors:
    found = copies(everything(m), "initial")
    survey = data.Loader(all_records, range(ROWS), batch=16, shuffle=False, labels=m.labels)
    torch.manual_seed(0)
    if isinstance(m, FitsStatistics):
        m.fit_statistics(survey)
    stages = len(m.stages) if isinstance(m, Staged) else 1
    for stage in range(stages):
        if isinstance(m, Refreshes) and (stage or m.refresh_first):
            precision = context("float32", torch.device("cpu"), m.encoder.width)
            m.refresh(
                stage,
                lambda precision=precision: embed_all(m, survey, torch.device("cpu"), precision),
            )
            m.train()
        if isinstance(m, Staged):
            m.on_stage_start(stage)
        optimizer = adamw(m, lr=1e-3, lr_multipliers=m.lr_multipliers)
        for step in range(1, steps + 1):
            number = stage * steps + step
            torch.manual_seed(number)
            m.zero_grad(set_to_none=True)
            terms = gradients(m, batch(m.views, seed=number))
            gradient = {n: p.grad for n, p in m.named_parameters() if p.grad is not None}
            optimizer.step()
            m.on_step_end(Clock(number, steps * stages))
            found |= copies(terms, f"{number}/term") | copies(gradient, f"{number}/gradient")
            found |= copies(everything(m), f"{number}/after")
    with torch.no_grad():
        vectors = m.eval().encoder(batch(("plain",), seed=100))
    return found | copies({s: vectors[s].values for s in vectors}, "embed")


def main(out: Path, only: str, steps: int, base: Path | None) -> None:
    here = os.path.realpath(os.getcwd())
    assert os.path.realpath(amodal.__file__).startswith(here), f"other code runs: {amodal.__file__}"
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    all_records = records()
    for name in methods.names():
        if only and name not in only.split(","):
            continue
        try:
            m = method(name).train()
            begun = copies(fixed(name, m), "fixed")
            if base is not None and (base / f"{name}.safetensors").exists():
                names = begin_with(m, load_file(base / f"{name}.safetensors"))
                (out / f"{name}.json").write_text(json.dumps(names), encoding="utf-8")
            save_file(begun | trace(m, steps, all_records), out / f"{name}.safetensors")
        except Exception as error:
            (out / f"{name}.error").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        Path(sys.argv[4]) if len(sys.argv) > 4 else None,
    )
