"""Activation checkpointing in whole runs: resumed, and in two processes with whole and with sharded
weights."""

import json

import pytest
import torch

from amodal.nn.gradient_checkpointing import recomputation
from amodal.train import distributed
from amodal.train.pretrain import pretrain
from amodal.train.step import gradients
from tests.methods.bench import batch, method
from tests.processes import run_ranks

QUICK = dict(size="nano", batch=16, seed=1, progress=False, checkpoint_every=4)


def sha(run) -> str:
    return json.loads((run / "config.json").read_text(encoding="utf-8"))["weights_sha256"]


def test_a_run_with_it_gives_the_weights_of_one_without_also_when_it_is_turned_on_later(
    folder, tmp_path, monkeypatch
):
    from amodal.train import loop

    pretrain("clip", folder, tmp_path / "without", steps=8, micro=5, **QUICK)
    pretrain("clip", folder, tmp_path / "with", steps=8, micro=5, recompute=True, **QUICK)
    saved = loop.checkpoint.save

    def killed(folder, step, *rest):
        saved(folder, step, *rest)
        raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(loop.checkpoint, "save", killed)
        pretrain("clip", folder, tmp_path / "later", steps=8, micro=5, **QUICK)
    pretrain(
        "clip", folder, tmp_path / "later", steps=8, micro=5, recompute=True, resume=True, **QUICK
    )
    assert sha(tmp_path / "with") == sha(tmp_path / "later") == sha(tmp_path / "without")


CASES = [
    ("clip", 2, False),
    ("clip", None, True),
    ("mae", 2, True),
    ("dino", 2, True),
    ("mhsa_dms", None, True),
]  # micro, sharded


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    other = []
    for name, micro, sharded in CASES:
        found = []
        for recompute in (False, True):
            m = method(name, seed=0)
            if sharded:
                distributed.shard(m)
            mine = batch(m.views).between(4 * rank, 4 * rank + 4)
            with recomputation(recompute):
                terms = gradients(m, mine, micro=micro)
            grads = {n: p.grad for n, p in m.named_parameters() if p.grad is not None}
            if sharded:
                assert any(hasattr(g, "to_local") for g in grads.values())
            found.append(
                terms | {n: g.to_local() if hasattr(g, "to_local") else g for n, g in grads.items()}
            )
        plain, recomputed = found
        other += [
            (name, micro, sharded, n)
            for n in plain.keys() | recomputed.keys()
            if n not in plain or n not in recomputed or not torch.equal(plain[n], recomputed[n])
        ]
    torch.save(other, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_same_to_the_bit_with_whole_and_with_sharded_weights(tmp_path):
    run_ranks(one_rank, tmp_path)
    for rank in range(2):
        assert torch.load(tmp_path / f"rank{rank}.pt") == []
