"""The trace of every method by code from before `scripts/loss_trace.py` was part of a revision; see
`scripts/same_loss.py`.

python loss_trace_base.py OUT ONLY STEPS    in the root of that revision

It may use only what revision 263cbe3 has, and it never changes with the code. What it writes is
described in `loss_trace.py`.
"""

import os
import sys
import warnings
from pathlib import Path

import torch
from amodal.methods._contract import Clock, Method
from safetensors.torch import save_file

import amodal
from amodal import data, methods
from amodal.core import Batch
from amodal.train.loop import Training, seen_all
from amodal.train.optim import adamw
from amodal.train.precision import context
from amodal.train.step import gradients
from tests.methods.bench import SENSES, batch, fields, method, raw


def everything(m: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, those too that are not saved."""
    return dict(m.named_parameters()) | dict(m.named_buffers())


def copies(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    return {
        f"{kind}/{name}": value.detach().clone().contiguous() for name, value in tensors.items()
    }


def fixed(name: str, m: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What begins the same with every seed, such as a temperature."""
    other = everything(method(name, seed=1))
    return {n: v for n, v in everything(m).items() if torch.equal(v, other[n])}


def records() -> data.Dataset:
    import numpy as np

    rng = np.random.default_rng(0)
    columns = {
        s: [raw(s, rng) if (i + k) % 4 else None for i in range(40)] for k, s in enumerate(SENSES)
    }
    kinds = [None if i % 4 == 3 else f"kind {i % 3}" for i in range(40)]
    return data.open(columns | {"kind": kinds}).with_fields(fields())


def trace(name: str, steps: int, all_records: data.Dataset) -> dict[str, torch.Tensor]:
    m: Method = method(name).train()
    found = copies(everything(m), "initial") | copies(fixed(name, m), "fixed")
    survey = data.Loader(all_records, range(40), batch=16, shuffle=False, labels=m.labels)
    torch.manual_seed(0)
    if type(m).study is not Method.study:
        m.study(survey)
    training = Training(m, 0.0, 40)
    for stage in range(len(m.stages)):
        if type(m).survey is not Method.survey and (stage or m.survey_first):
            precision = context("float32", torch.device("cpu"), m.encoder.width)
            m.survey(
                stage,
                lambda precision=precision: seen_all(m, survey, torch.device("cpu"), precision),
            )
            m.train()
        m.begin(stage)
        optimizer = adamw(m, lr=1e-3, rates=m.rates)
        for step in range(1, steps + 1):
            number = stage * steps + step
            torch.manual_seed(number)
            m.zero_grad(set_to_none=True)
            terms = gradients(m, batch(m.views, seed=number))
            gradient = {n: p.grad for n, p in m.named_parameters() if p.grad is not None}
            optimizer.step()
            m.tick(Clock(number, steps * len(m.stages)))
            found |= copies(terms, f"{number}/term") | copies(gradient, f"{number}/gradient")
            found |= copies(everything(m), f"{number}/after")
    del training
    with torch.no_grad():
        plain: Batch = batch(("plain",), seed=100)
        vectors = m.eval().encoder(plain)
    return found | copies({s: vectors[s].values for s in vectors}, "embed")


def main(out: Path, only: str, steps: int) -> None:
    here = os.path.realpath(os.getcwd())
    assert os.path.realpath(amodal.__file__).startswith(here), f"other code runs: {amodal.__file__}"
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    all_records = records()
    for name in methods.names():
        if only and name not in only.split(","):
            continue
        try:
            save_file(trace(name, steps, all_records), out / f"{name}.safetensors")
        except Exception as error:
            (out / f"{name}.error").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
