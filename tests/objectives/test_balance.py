"""balanced_info_nce against the matrix scaled step by step, and against InfoNCE."""

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives import balance
from amodal.objectives.balance import balanced_info_nce
from amodal.objectives.info_nce import info_nce


def scaled(a, b, temperature, steps):
    """The probabilities themselves, row after row and column after column."""
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    total = 0.0
    for first in (0, 1):
        q = logits.exp()
        if steps == 0:
            q = q / q.sum()
        for step in range(steps):
            q = (
                q / q.sum(1, keepdim=True)
                if (step + first) % 2 == 0
                else q / q.sum(0, keepdim=True)
            )
        total = total - sum(q[i, i].log() for i in range(len(a))) / len(a)
    return total / 2


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("tile", [2, 1024])
def test_it_is_sinkhorns_alternation(pair, same, steps, tile):
    t = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    same(
        lambda a, b, t: balanced_info_nce(a, b, temperature=t, steps=steps, tile=tile),
        lambda a, b, t: scaled(a, b, t, steps),
        [*pair(7, 4), t],
    )


def test_one_step_is_info_nce_and_many_converge(pair, same):
    same(
        lambda a, b: balanced_info_nce(a, b, temperature=0.05, steps=1),
        lambda a, b: info_nce(a, b, temperature=0.05),
        pair(9, 4),
    )
    a, b = pair(9, 4)
    late, later = (balanced_info_nce(a, b, temperature=0.5, steps=s) for s in (30, 31))
    torch.testing.assert_close(late, later)


def test_float32_at_a_low_temperature(pair):
    a, b = (x.detach() for x in pair(64, 8))
    exact = balanced_info_nce(a, b, temperature=0.01, steps=2)
    x = a.float().requires_grad_()
    value = balanced_info_nce(x, b.float(), temperature=0.01, steps=2)
    value.backward()
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)
    assert x.grad.isfinite().all()


def test_edges(pair):
    for n in (0, 1):
        a, b = pair(n, 3)
        balanced_info_nce(a, b, temperature=0.1).backward()
        assert a.grad.abs().sum() == 0 and a.grad.shape == (n, 3)
    with pytest.raises(ValueError, match="steps"):
        balanced_info_nce(*pair(3, 3), temperature=0.1, steps=-1)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_held_whole_or_in_tiles_it_is_the_same(steps, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(300, 16, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    temperature = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    found = []
    for most in (balance.MAX_DENSE_ROWS, 0):
        monkeypatch.setattr(balance, "MAX_DENSE_ROWS", most)
        loss = balance.balanced_info_nce(a, b, temperature=temperature, steps=steps)
        found.append([loss, *torch.autograd.grad(loss, (a, b, temperature))])
    for whole, tiled in zip(*found):
        torch.testing.assert_close(whole, tiled, rtol=1e-10, atol=1e-12)
