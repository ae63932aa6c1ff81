"""Processes that share a matrix get what one gets: threads stand for processes, and meet at every
sum."""

import threading

import pytest
import torch

from amodal.objectives.info_nce import info_nce, nt_xent
from amodal.objectives.log_sum_exp import pair_log_sum_exp, row_log_sum_exp, self_log_sum_exp
from amodal.objectives.row_share import RowShare, row_share
from amodal.objectives.sigmoid import sigmoid_loss
from amodal.objectives.sigreg import sigreg
from amodal.objectives.smoothed_info_nce import smoothed_info_nce


class Meeting:
    """The reductions of W threads. computed: numbers that each put in, to see that nobody does all."""

    def __init__(self, world: int):
        self.world, self.barrier = world, threading.Barrier(world)
        self.parts: list = [None] * world

    def reduce(self, rank: int, t: torch.Tensor, together) -> None:
        self.parts[rank] = t.clone()
        self.barrier.wait(20)
        whole = together(torch.stack(self.parts))
        self.barrier.wait(20)
        t.copy_(whole)

    def share(self, rank: int) -> RowShare:
        return RowShare(
            rank,
            self.world,
            lambda t: self.reduce(rank, t, lambda p: p.sum(0)),
            lambda t: self.reduce(rank, t, lambda p: p.amax(0)),
        )


def on_all(world, inputs, loss):
    """Value and gradients of each of W threads."""
    meeting, found = Meeting(world), [None] * world

    def one(rank: int) -> None:
        own = [x.clone().requires_grad_() for x in inputs]
        with row_share(meeting.share(rank)):
            value = loss(*own)
        found[rank] = [value.detach(), *torch.autograd.grad(value, own)]

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


SLICES = torch.randn(9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LOSSES = {
    "info_nce": lambda a, b: info_nce(a, b, temperature=0.1),
    "one way": lambda a, b: info_nce(a, b, temperature=0.1, symmetric=False),
    "sharp": lambda a, b: info_nce(a, b, temperature=0.001),  # running log-sum-exps
    "nt_xent": lambda a, b: nt_xent(a, b, temperature=0.5),
    "sharp nt_xent": lambda a, b: nt_xent(a, b, temperature=0.001),
    "smoothed": lambda a, b: smoothed_info_nce(a, b, temperature=0.1),
    "sigmoid": lambda a, b: sigmoid_loss(a, b, scale=10.0, bias=-10.0),
    "sigreg": lambda a, b: sum(sigreg(z, SLICES, limit=5.0, points=5, tile=2) for z in (a, b)),
    "pair": lambda a, b: sum(x.square().sum() for x in pair_log_sum_exp(a, b)),
    "more columns": lambda a, b: row_log_sum_exp(a[:3], b).sin().sum(),
    "self": lambda a, b: self_log_sum_exp(a).square().sum() + b.sum(),
}


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("rows", [2, 7, 40])
@pytest.mark.parametrize("name", LOSSES)
def test_shared_or_alone_it_is_the_same(name, rows, world):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(rows, 8, generator=generator, dtype=torch.float64) for _ in range(2)]
    alone = [x.clone().requires_grad_() for x in inputs]
    value = LOSSES[name](*alone)
    want = [value.detach(), *torch.autograd.grad(value, alone)]
    for got in on_all(world, inputs, LOSSES[name]):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_nobody_computes_all(monkeypatch):
    """Elements of the matrix that each process exponentiates."""
    seen, real = {}, torch.Tensor.sub_

    def counted(self, *args):
        if self.dim() == 2:
            seen[threading.get_ident()] = seen.get(threading.get_ident(), 0) + self.numel()
        return real(self, *args)

    monkeypatch.setattr(torch.Tensor, "sub_", counted)
    inputs = [torch.randn(64, 8, dtype=torch.float64) for _ in range(2)]
    on_all(4, inputs, lambda a, b: info_nce(a, b, temperature=0.5))
    assert len(seen) == 4 and max(seen.values()) <= 2 * 64 * 64 / 4
