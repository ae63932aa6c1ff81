"""A step does not ask a device how long things are: what has to wait for it is counted on a device
made for that."""

from collections import Counter as Tally

import pytest
import torch

from amodal.core import Column, Ragged, Tokens
from amodal.core.host import constant, host_copy, known, on_host, take, to_device, where_true
from amodal.train.step import gradients
from tests import fake_device
from tests.methods.bench import batch, exact, method

NEEDED: dict[str, int] = {}
"""Where a step of these methods has to wait, and how often: nowhere. Lengths, rows, sources and
masks are known on the CPU, where the batch comes from; a loss is read one step late, by the loop.
"""

needs_device = pytest.mark.skipif(
    not fake_device.available(), reason="torch before 2.10 has no devices written in Python"
)


@needs_device
@pytest.mark.parametrize("name", ["clip", "mae", "simclr"])
@pytest.mark.parametrize("micro", [None, 3])
def test_a_step_never_waits_for_its_device(name, micro):
    torch.manual_seed(0)
    on_cpu = exact(method(name))
    on_device = exact(method(name))
    on_device.load_state_dict(on_cpu.state_dict())
    whole = exact(batch(on_cpu.views, seed=1))
    want = gradients(on_cpu, whole, micro=micro)
    with fake_device.Counter() as counter:
        fake_device.to_device(on_device)
        moved = whole.to(fake_device.DEVICE)
        counter.waits.clear()
        got = gradients(on_device, moved, micro=micro)
    assert counter.waits == Tally(NEEDED)
    for term, value in want.items():
        torch.testing.assert_close(got[term].held, value)
    theirs = dict(on_device.named_parameters())
    for key, p in on_cpu.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(theirs[key].grad.held, p.grad, rtol=1e-4, atol=1e-6)


@needs_device
def test_the_counter_sees_what_waits():
    with fake_device.Counter() as counter:
        x = torch.arange(4).to(fake_device.DEVICE)
        counter.waits.clear()
        for wait in (
            lambda: x.max().item(),
            lambda: x.nonzero(),
            lambda: x[x > 1],
            lambda: x.cpu(),
            lambda: x.tolist(),
        ):
            before = counter.total()
            wait()
            assert counter.total() == before + 1
        for free in (
            lambda: x + 1,
            lambda: x[x],
            lambda: x.cumsum(0),
            lambda: to_device(torch.ones(2), x.device),
        ):
            before = counter.total()
            free()
            assert counter.total() == before
        with pytest.raises(RuntimeError, match="two devices"):
            x + torch.ones(4)


@needs_device
def test_what_is_sent_stays_known_and_what_follows_from_it():
    with fake_device.Counter() as counter:
        lengths = to_device(torch.tensor([2, 0, 3]), fake_device.DEVICE)
        column = Column(
            Ragged(to_device(torch.randn(5, 2), fake_device.DEVICE), lengths),
            to_device(torch.tensor([1, 4, 5]), fake_device.DEVICE),
        )
        assert torch.equal(host_copy(column.values.starts()), torch.tensor([0, 2, 2]))
        piece = column.at(to_device(torch.tensor([0, 2]), fake_device.DEVICE))
        assert torch.equal(host_copy(piece.values.lengths), torch.tensor([2, 3]))
        tokens = Tokens.of(
            column.values.flat, column.rows, lengths, column.values.flat.new_zeros(5, 3), "a", 7
        )
        both = Tokens.join([tokens, tokens.renamed("b")]).only("b")
        assert torch.equal(host_copy(both.row), torch.tensor([1, 1, 5, 5, 5]))
        assert torch.equal(host_copy(both.rows()), torch.tensor([1, 5]))
        assert torch.equal(host_copy(where_true(lengths)), torch.tensor([0, 2]))
        assert known(take(lengths, torch.tensor([True, False, True]))) is not None
        assert known(on_host(lambda n: n + 1, lengths)).tolist() == [3, 1, 4]
        assert not counter.waits, counter.waits
        lengths.add_(1)  # changed in place: what was known holds no longer
        assert known(lengths) is None and host_copy(lengths).tolist() == [3, 1, 4]
        assert counter.total() == 1


@needs_device
def test_a_skeleton_has_rows_and_sources_on_the_cpu_and_leaves_positions():
    with fake_device.Counter() as counter:
        rows, lengths, position = (
            to_device(t, fake_device.DEVICE)
            for t in (torch.tensor([1, 4]), torch.tensor([2, 3]), torch.rand(5, 3))
        )
        tokens = Tokens.of(position.new_zeros(5, 2), rows, lengths, position, "a", 7)
        counter.waits.clear()
        bare = tokens.skeleton()
        assert not counter.waits, counter.waits
        assert bare.row.device.type == bare.source.device.type == "cpu"
        assert bare.row.tolist() == [1, 1, 4, 4, 4] and bare.x.shape == (5, 0)
        assert bare.position is position


def test_on_a_cpu_a_tensor_is_its_own_copy():
    x = torch.arange(3)
    assert host_copy(x) is x and to_device(x, "cpu") is x and known(x) is x
    assert torch.equal(take(x, torch.tensor([False, True, True])), torch.tensor([1, 2]))
    assert constant((1, 2), torch.zeros(1)).dtype is torch.float32
