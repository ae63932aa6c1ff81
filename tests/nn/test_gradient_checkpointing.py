"""Activation checkpointing changes what is kept, and no number."""

import copy

import pytest
import torch
from torch import nn

from amodal.methods.contract import Clock
from amodal.nn.attention.varlen import Attention
from amodal.nn.gradient_checkpointing import recomputation
from amodal.nn.transformer import Block
from amodal.train.loop import start_stage
from amodal.train.optim import adamw
from amodal.train.step import gradients
from benchmarks._timing import peak_mib
from tests.methods.bench import batch, method

KINDS = {
    "clip": "contrastive",
    "mae": "masked, with a decoder",
    "dino": "a teacher",
    "limoe": "experts that send losses what they chose",
    "skillnet_mm": "blocks that are switched for each field",
    "softmask_vl": "attention across fields, whose slopes are part of the step",
    "biofusionnet": "attention across fields",
    "mma_dfer": "what happens between blocks",
}


def steps(m, recompute: bool, micro: int | None) -> dict[str, torch.Tensor]:
    """All that two steps give: losses, gradients, weights, and where the random generator stands
    after them."""
    m.train()
    start_stage(m, 0)
    optimizer, found = adamw(m, lr=1e-3), {}
    torch.manual_seed(5)
    for step in (1, 2):
        optimizer.zero_grad(set_to_none=True)
        with recomputation(recompute):
            terms = gradients(m, batch(m.views, seed=step), micro=micro)
        found |= {f"{step} {name}": value for name, value in terms.items()}
        found |= {
            f"{step} {name}": p.grad.clone()
            for name, p in m.named_parameters()
            if p.grad is not None
        }
        optimizer.step()
        m.on_step_end(Clock(step, 2))
    return found | m.state_dict() | {"generator": torch.get_rng_state()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize("name", KINDS)
def test_every_number_of_a_step_is_the_same_to_the_bit(name, micro):
    assert_same(steps(method(name), False, micro), steps(method(name), True, micro))


def with_dropout(name):
    m = method(name)
    for block in (b for b in m.modules() if isinstance(b, Block)):
        block.down = nn.Sequential(block.down, nn.Dropout(0.5))
    return m


def test_what_is_random_in_a_block_is_the_same_the_second_time():
    plain, rebuilt = (steps(with_dropout("clip"), recompute, None) for recompute in (False, True))
    assert_same(plain, rebuilt)
    other = with_dropout("clip")
    torch.manual_seed(0)
    gradients(other, batch(other.views, seed=1))
    assert not all(
        torch.equal(p.grad, plain[f"1 {n}"])
        for n, p in other.named_parameters()
        if p.grad is not None
    )


def passes(m, call, monkeypatch) -> int:
    """How often blocks attend in a call."""
    seen, forward = [], Attention.forward
    with monkeypatch.context() as patch:
        patch.setattr(
            Attention, "forward", lambda self, *a, **k: seen.append(1) or forward(self, *a, **k)
        )
        call()
    return len(seen)


def test_blocks_compute_once_more_where_there_is_a_gradient_and_nowhere_else(monkeypatch):
    m = method("clip")
    b = batch(m.views)
    once = passes(m, lambda: gradients(m, b), monkeypatch)
    with recomputation():
        assert passes(m, lambda: gradients(m, b), monkeypatch) == 2 * once
        with torch.no_grad():
            assert passes(m, lambda: m.features(b), monkeypatch) == once
        # micro-batches: once without a graph, and with one twice
        assert passes(m, lambda: gradients(m, b, micro=8 // 2), monkeypatch) == 6 * once
    assert passes(m, lambda: gradients(m, b), monkeypatch) == once


def test_activations_of_blocks_are_not_stored():
    m = method("mae")
    for trunk in m.encoder.trunks.values():
        trunk.blocks.extend(copy.deepcopy(trunk.blocks[0]) for _ in range(10))
    b = batch(m.views, size=64)

    def peak(recompute: bool) -> float:
        def step() -> None:
            m.zero_grad(set_to_none=True)
            with recomputation(recompute):
                gradients(m, b)

        step()
        return peak_mib(step)

    assert peak(True) < 0.5 * peak(False)
