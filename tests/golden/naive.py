"""What naive implementations of papers share. Nothing here comes from the package.

Random numbers of rows are the counter-based ones of Steele, Lea and Flood (2014), written out with
whole numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
WORD = 2**64


def mixed(x: int) -> int:
    x %= WORD
    x = ((x ^ (x >> 30)) * FIRST) % WORD
    x = ((x ^ (x >> 27)) * SECOND) % WORD
    return x ^ (x >> 31)


def bits(seed: int, *counters: int) -> int:
    state = mixed(seed + GOLDEN)
    for counter in counters:
        state = mixed(state + (counter + 1) * GOLDEN)
    return state


def uniform(seed: int, *counters: int) -> float:
    return (bits(seed, *counters) >> 40) / 2**24


def code(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a * a).sum().sqrt() / (b * b).sum().sqrt()


def positions(position: Tensor, width: int) -> Tensor:
    """Sines and cosines of each of three coordinates, at width // 6 wavelengths from 2 pi to 20,000
    pi. Rates are in single precision, and angles in that of the coordinates."""
    bands = width // 6
    rates = torch.tensor(1e4) ** -(torch.arange(bands) / bands)
    angle = torch.cat([position[:, axis, None] * rates for axis in range(3)], 1)
    return torch.cat([angle.sin(), angle.cos(), angle.new_zeros(len(angle), width - 6 * bands)], 1)


def descend(parameters: Iterable[nn.Parameter], rate: float) -> None:
    """A step of gradient descent."""
    with torch.no_grad():
        for p in parameters:
            if p.grad is not None:
                p -= rate * p.grad
                p.grad = None


def assert_equal_steps(
    page: nn.Module,
    page_terms: Callable[[], dict[str, Tensor]],
    naive: nn.Module,
    naive_terms: Callable[[], dict[str, Tensor]],
    pairs: dict[str, str],
    steps: int = 2,
) -> None:
    """Two steps of both agree: terms, gradients, and parameters after each step.

    pairs: prefix of names in `page` -> prefix of names in `naive`; it must cover all that learns.
    """
    mine, theirs = dict(page.named_parameters()), dict(naive.named_parameters())

    def twin(name: str) -> str:
        prefix = next(p for p in pairs if name.startswith(p))
        return pairs[prefix] + name.removeprefix(prefix)

    assert {twin(n) for n, p in mine.items() if p.requires_grad} == set(theirs)
    for _ in range(steps):
        terms, expected = page_terms(), naive_terms()
        assert terms.keys() == expected.keys()
        for name in terms:
            torch.testing.assert_close(terms[name], expected[name], rtol=1e-9, atol=1e-11)
        sum(terms.values()).backward()
        sum(expected.values()).backward()
        moved = 0
        for name, p in mine.items():
            if not p.requires_grad:
                assert p.grad is None
                continue
            zero = torch.zeros_like(p)
            a = zero if p.grad is None else p.grad
            b = zero if theirs[twin(name)].grad is None else theirs[twin(name)].grad
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=name)
            moved += int(a.abs().sum() > 0)
        assert moved > len(mine) // 4
        descend(mine.values(), 0.1)
        descend(theirs.values(), 0.1)
        for name, p in mine.items():
            if p.requires_grad:
                torch.testing.assert_close(p, theirs[twin(name)], rtol=1e-9, atol=1e-10, msg=name)
