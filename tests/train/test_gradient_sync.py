"""Gradients are averaged while the backward pass goes on, and are those of the whole batch."""

import os
import weakref

import torch
import torch.distributed as dist
from torch import nn

from amodal.train import distributed
from amodal.train.gradient_sync import IN_FLIGHT, GradientSync, numbers_in_flight
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, method
from tests.processes import run_ranks


def network():
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8, bias=False) for _ in range(6)]
    return nn.ModuleList(layers).double()


def run(layers, x, used):
    for i in used:
        x = torch.tanh(layers[i](x))
    return x.sum()


def means(inputs, used):
    """The gradients that two ranks should have."""
    each = [network() for _ in inputs]
    for layers, x, layers_used in zip(each, inputs, used):
        run(layers, x, layers_used).backward()
    pairs = zip(*(layers.parameters() for layers in each))
    zero = torch.zeros(8, 8).double()
    return [sum(zero if p.grad is None else p.grad for p in pair) / 2 for pair in pairs]


def check_that_buckets_are_let_go(inputs, rank):
    """Of six buckets two exist at once, and means are in place before the backward pass ends."""
    layers, sent, alive, counts = network(), [], [], []
    sync = GradientSync(layers.parameters(), bucket=64)
    all_reduce = dist.all_reduce

    def watched(tensor, **options):
        alive.append(weakref.ref(tensor))
        counts.append(sum(ref() is not None for ref in alive))
        sent[:] = [all_reduce(tensor, **options)]
        return sent[0]

    def arrive(p):
        for work in sent:
            work.wait()

    for p in layers.parameters():  # before the hook of `sync`, which then finds its bucket there
        p.register_post_accumulate_grad_hook(arrive)
    expected = means(inputs, [range(6)] * 2)
    dist.all_reduce = watched
    try:
        with sync.during():
            run(layers, inputs[rank], range(6)).backward()
        assert sync.sent == len(counts) == 6  # on its way while the backward pass went on
        for layer, mean in list(zip(layers, expected))[::-1][:4]:
            assert torch.equal(layer.weight.grad, mean)
        sync.finish()
    finally:
        dist.all_reduce = all_reduce
    # each of gloo's two threads lets go of its last bucket a moment later
    assert max(counts) <= IN_FLIGHT + 2 < len(sync.buckets)
    assert numbers_in_flight(layers.parameters(), 64) == IN_FLIGHT * 64
    for p, mean in zip(layers.parameters(), expected):
        assert torch.equal(p.grad, mean)


def check_that_ranks_may_send_different_numbers(inputs, rank):
    """One rank sends during the backward pass what the other, which does not use the first layers,
    sends after it."""
    layers, used = network(), [range(6), range(5, 6)]
    sync = GradientSync(layers.parameters(), bucket=64)
    with sync.during():
        run(layers, inputs[rank], used[rank]).backward()
    assert sync.sent >= 1 and (rank == 0 or sync.sent == 1)
    sync.finish()
    for p, mean in zip(layers.parameters(), means(inputs, used)):
        assert torch.equal(p.grad, mean)


def one_rank(rank, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {
        "MASTER_PORT": (open(f"{folder}/port", encoding="utf-8").read()),
        "LOCAL_RANK": str(rank),
    }
    torch.set_num_threads(1)
    distributed.start()
    # ranks reach different layers, layer 5 is reached by none, and layer 4 had a gradient before
    layers = network()
    inputs = [torch.arange(16.0).view(2, 8).double() / (9 + r) for r in range(2)]
    used = [(0, 1, 2), (0, 3, 2)]
    layers[4](inputs[rank]).sum().backward()
    sync = GradientSync(layers.parameters(), bucket=64)
    assert [len(b) for b in sync.buckets] == [1] * 6
    assert sync.buckets[-1][0] is layers[4].weight and sync.buckets[0][0] is layers[5].weight
    with sync.during():
        run(layers, inputs[rank], used[rank]).backward()
    assert sync.sent == 0  # layer 5 comes first, and has no gradient on any rank
    sync.finish()
    alone = network()
    for r in range(2):
        alone[4](inputs[r]).sum().backward()
        run(alone, inputs[r], used[r]).backward()
    for mine, one in zip(layers.parameters(), alone.parameters()):
        assert (mine.grad is None) == (one.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(mine.grad, one.grad / 2)
    assert layers[5].weight.grad is None
    check_that_buckets_are_let_go(inputs, rank)
    check_that_ranks_may_send_different_numbers(inputs, rank)
    # the whole step, at once and in pieces, is that of one process
    whole = exact(batch(("plain",), size=12))
    for micro in (None, 2):
        m = exact(method("clip"))
        gradients(m, whole.between(rank * 6, rank * 6 + 6), micro=micro)
        torch.save({n: p.grad for n, p in m.named_parameters()}, f"{folder}/{micro}-{rank}.pt")
    distributed.stop()


def test_gradients_of_two_ranks_are_those_of_one(tmp_path):
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(s.getsockname()[1]), encoding="utf-8")
    run_ranks(one_rank, tmp_path)
    m = exact(method("clip"))
    gradients(m, exact(batch(("plain",), size=12)))
    for micro in (None, 2):
        for rank in range(2):
            found = torch.load(tmp_path / f"{micro}-{rank}.pt")
            for name, p in m.named_parameters():
                torch.testing.assert_close(found[name], p.grad, rtol=1e-9, atol=1e-12)
