import numpy as np
import pytest
import torch

from amodal.masking.hashing import hash_bits, normal, uniform

N = 200_000


def corr(x, y):
    return float(np.corrcoef(x.numpy(), y.numpy())[0, 1])


def reference(seed, *counters):
    """splitmix64's finaliser on Python integers."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    bits = mix((seed + golden) & mask)
    for counter in counters:
        bits = mix((bits + (counter + 1) * golden) & mask)
    return bits


@pytest.mark.parametrize("counters", [(), (0,), (1, 2), (2**62, 5), (-3,)])
def test_wraparound_is_unsigned_arithmetic(counters):
    for seed in (0, 1, -1, 2**63 - 1, -(2**63), 123456789):
        bits = int(hash_bits(torch.tensor([seed]), *counters)[0]) % 2**64
        assert bits == reference(seed, *counters)
        assert float(uniform(torch.tensor([seed]), *counters)[0]) == (bits >> 40) / 2**24


@pytest.mark.parametrize("along", ["seed", "counter", "second counter", "strided counter"])
def test_statistics(along):
    i, zero = torch.arange(N), torch.zeros(N, dtype=torch.long)
    u = {
        "seed": lambda: uniform(i, 0),
        "counter": lambda: uniform(zero + 7, i),
        "second counter": lambda: uniform(zero + 7, 3, i),
        "strided counter": lambda: uniform(zero, i << 32),
    }[along]().double()
    assert 0 <= u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * (1 / 12 / N) ** 0.5
    assert abs(u.var() - 1 / 12) < 4 * (1 / 180 / N) ** 0.5
    for lag in (1, 2, 14, 196):
        assert abs(corr(u[lag:], u[:-lag])) < 4.5 / N**0.5
    counts = torch.bincount((u * 256).long(), minlength=256).double()
    chi_square = ((counts - N / 256) ** 2 / (N / 256)).sum()
    assert abs(chi_square - 255) < 4.5 * (2 * 255) ** 0.5


def test_streams_are_independent():
    i = torch.arange(N)
    base = uniform(i, 0)
    for other in (
        uniform(i, 1),
        uniform(i + 1, 0),
        uniform(i),
        uniform(torch.zeros_like(i), i),
        uniform(i, 0, 0),
    ):
        assert abs(corr(base, other)) < 4.5 / N**0.5


def test_each_bit_flips_half_of_the_output():
    seed = torch.arange(2000)
    for bit in range(63):
        changed = hash_bits(seed, 5) ^ hash_bits(seed ^ (1 << bit), 5)
        flips = sum(int(((changed >> k) & 1).sum()) for k in range(64)) / (64 * len(seed))
        assert abs(flips - 0.5) < 0.01


def test_one_to_one_in_the_last_counter():
    assert len(hash_bits(torch.tensor([3]), torch.arange(N)).unique()) == N


def test_broadcasts_and_wants_integers():
    assert uniform(torch.arange(3)[:, None], torch.arange(4)).shape == (3, 4)
    assert torch.equal(
        uniform(torch.arange(3), 4),
        uniform(torch.arange(3, dtype=torch.int32), torch.full((3,), 4)),
    )
    with pytest.raises(TypeError, match="float32"):
        uniform(torch.zeros(3))


def test_normal_numbers_are_normal():
    i = torch.arange(N)
    x = normal(i, 3).double()
    assert abs(x.mean()) < 4 / N**0.5 and abs(x.var() - 1) < 4 * (2 / N) ** 0.5
    assert abs((x**3).mean()) < 4 * (15 / N) ** 0.5 and abs((x**4).mean() - 3) < 4 * (96 / N) ** 0.5
    for level, share in ((1.0, 0.3173), (2.0, 0.0455)):
        assert abs((x.abs() > level).double().mean() - share) < 4 * (share * (1 - share) / N) ** 0.5
    assert (
        abs(corr(x[1:], x[:-1])) < 4.5 / N**0.5
        and abs(corr(x, normal(i, 4).double())) < 4.5 / N**0.5
    )
