"""For golden tests of methods that compare two views: a batch, perceptrons with batch statistics
written out, and the steps of plain gradient descent.

Only the types of a batch and the encoder are taken from the package.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from amodal import modalities
from amodal.core import Batch, Column, Ragged
from amodal.methods.contract import Clock
from amodal.nn.encoder import Encoder

RATE, STEPS = 0.3, 2
PRESENT = {"picture": (0, 1, 2, 4, 5), "curve": (0, 2, 3, 4, 5)}
"""Each field lacks another of six rows."""


def encoder(**options) -> Encoder:
    """A small one in double precision, of pictures and of curves."""
    torch.manual_seed(0)
    fields = {
        "picture": modalities.make("image", size=8, channels=1, patch=4),
        "curve": modalities.kind("series").infer(
            [np.random.default_rng(i).normal(size=(9, 2)) for i in range(4)]
        ),
    }
    return Encoder(fields, size="nano", **options).double()


def batch(step: int) -> Batch:
    """Six rows with two views of each value."""
    g = torch.Generator().manual_seed(step)
    columns = {}
    for view in (1, 2):
        rows = torch.tensor(PRESENT["picture"])
        pictures = torch.rand(5, 1, 8, 8, generator=g, dtype=torch.float64)
        columns[f"picture:{view}"] = Column(pictures, rows)
        lengths = torch.tensor([7, 9, 5, 8, 6])
        flat = torch.randn(35, 2, generator=g, dtype=torch.float64)
        columns[f"curve:{view}"] = Column(Ragged(flat, lengths), torch.tensor(PRESENT["curve"]))
    return Batch.of(6, columns, [f"record {step}-{i}" for i in range(6)])


class Naive:
    """Weights and statistics by their names in `state_dict`, and what is done with them.

    `of(name, batch)` embeds a batch with the encoder whose weights stand under a name.
    """

    def __init__(self, method):
        self.state = {n: v.detach().clone() for n, v in method.state_dict().items()}
        self.learned = {n for n, p in method.named_parameters() if p.requires_grad}
        self.encoder = copy.deepcopy(method.encoder)

    def require(self) -> None:
        for n in self.learned:
            self.state[n] = self.state[n].detach().requires_grad_(True)

    def of(self, prefix: str, values: Batch) -> dict[str, Tensor]:
        weights = {n.removeprefix(prefix): v for n, v in self.state.items() if n.startswith(prefix)}
        vectors = torch.func.functional_call(self.encoder, weights, (values,))
        return {s: vectors[s].values for s in vectors}

    def linear(self, name: str, x: Tensor) -> Tensor:
        out = x @ self.state[f"{name}.weight"].T
        return out + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else out

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Batch statistics, and one step of the running ones."""
        n, centre = len(x), x.sum(0) / len(x)
        variance = ((x - centre) ** 2).sum(0) / n
        for key, now in (("mean", centre), ("var", variance * n / (n - 1))):
            before = self.state[f"{name}.running_{key}"]
            self.state[f"{name}.running_{key}"] = 0.9 * before + 0.1 * now.detach()
        count = f"{name}.num_batches_tracked"
        self.state[count] = self.state[count] + 1
        out = (x - centre) / (variance + 1e-5) ** 0.5
        if f"{name}.weight" in self.state:
            out = out * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]
        return out

    def head(self, name: str, x: Tensor, layers: str) -> Tensor:
        """`layers` such as "lnrl": linear, norm, ReLU, linear."""
        for i, kind in enumerate(layers):
            at = f"{name}.{i}"
            if kind == "l":
                x = self.linear(at, x)
            elif kind == "n":
                x = self.norm(at, x)
            else:
                x = x * (x > 0)
        return x

    def descend(self, loss: Tensor) -> dict[str, Tensor]:
        """A step against the gradient; the gradients of weights that have one."""
        learned = sorted(self.learned)
        found = torch.autograd.grad(loss, [self.state[n] for n in learned], allow_unused=True)
        grads = {n: g for n, g in zip(learned, found) if g is not None}
        for n in learned:
            step = RATE * grads[n] if n in grads else 0.0
            self.state[n] = (self.state[n] - step).detach()
        return grads

    def average(self, teacher: str, student: str, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, of weights alone."""
        for n in self.state:
            own = n.removeprefix(student)
            if n.startswith(student) and "running" not in n and "tracked" not in n:
                self.state[teacher + own] = (
                    momentum * self.state[teacher + own] + (1 - momentum) * self.state[n]
                )


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) of every two rows."""
    length = [(x * x).sum(1, keepdim=True) ** 0.5 for x in (a, b)]
    return (a / length[0]) @ (b / length[1]).T


def check(method, algorithm, *, steps: int = STEPS, planned: int = 4) -> None:
    """Hold two steps of a method against `algorithm(naive, batch, step) -> terms, after`.

    `after()` does what follows an optimizer step.
    """
    naive = Naive(method)
    seen = []
    for step in range(1, steps + 1):
        naive.require()
        values = batch(step)
        expected, after = algorithm(naive, values, step)
        grads = naive.descend(sum(expected.values()))
        after()

        method.zero_grad()
        terms = method.losses(method.features(values))
        sum(terms.values()).backward()
        assert terms.keys() == expected.keys()
        for name in terms:
            wanted = expected[name].item()
            assert terms[name].item() == pytest.approx(wanted, rel=1e-10), name
        got = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
        largest = max(float(g.abs().max()) for g in grads.values())
        assert largest > 1e-3
        for n in got.keys() | grads.keys():
            zero = torch.zeros(())
            difference = (got.get(n, zero) - grads.get(n, zero)).abs().max()
            assert difference <= 1e-9 * largest, f"gradient of {n}"
        with torch.no_grad():
            for p in method.parameters():
                if p.grad is not None:
                    p -= RATE * p.grad
        method.on_step_end(Clock(step, planned))
        state = method.state_dict()
        assert state.keys() == naive.state.keys()
        for n, value in state.items():
            wanted = naive.state[n].detach()
            assert value.dtype == wanted.dtype and value.shape == wanted.shape, n
            assert (value - wanted).abs().max() <= 1e-9, f"{n} after step {step}"
        seen.append([v.item() for v in expected.values()])
    assert not np.allclose(seen[0], seen[1], rtol=1e-3), "the second step says nothing new"
