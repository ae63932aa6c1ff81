"""A shuffled order without a table: the record at any position of any epoch.

A Feistel network over the next power of four is a bijection, whatever its round function is. A
position that falls outside 0 … n-1 is encrypted once more until it falls inside (cycle walking).
So the order is a pure function of (seed, epoch, position). It does not depend on workers and ranks,
and the state of a run is one integer.

Luby & Rackoff 1988, "How to construct pseudorandom permutations"; Black & Rogaway 2002, "Ciphers
with arbitrary finite domains".
"""

from __future__ import annotations

import hashlib
from typing import cast

import numpy as np

ROUNDS = 6
"""Four rounds of random functions pass for a random permutation (Luby and Rackoff 1988). So it is
here: over 6,000 epochs of 64 records, where the first two go differs from chance after 3 rounds and
not after 4. Two are to spare."""
SMALLEST_HALF = 3
"""Bits of half a position at least. With fewer, a network has too few permutations to look
random."""


def permute(positions: np.ndarray, n: int, *, seed: int = 0, epoch: int = 0) -> np.ndarray:
    """The records at some positions of a shuffled epoch.

    Args:
        positions: of any shape, in 0 … n-1.
        n: number of records.
        seed: of the order.
        epoch: each has another order.

    Returns:
        int64 of the shape of `positions`.

    Raises:
        ValueError: a position is outside 0 … n-1.
    """
    positions = np.asarray(positions, dtype=np.uint64)
    if n < 1 or (positions.size and int(positions.max()) >= n):
        raise ValueError(f"positions must lie in 0 … {n - 1} for {n} records")
    # half of the bits of n - 1, rounded up: the domain 4^half is below 4 n, so at most 4 tries
    # are expected (more for n below 16, where SMALLEST_HALF counts)
    half = max(SMALLEST_HALF, (n - 1).bit_length() + 1 >> 1)
    keys = _round_keys(seed, epoch)
    out = _encrypt(positions, half, keys)
    while (outside := out >= n).any():
        out[outside] = _encrypt(out[outside], half, keys)
    return out.astype(np.int64)


def epochs(
    positions: np.ndarray, n: int, *, seed: int = 0, shuffle: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The records at some positions of a run of many epochs.

    Args:
        positions: 0, 1, … of the run, of any shape.
        n: number of records.
        seed: of the order.
        shuffle: False for the records in their order.

    Returns:
        Records and epochs, both int64 of the shape of `positions`.
    """
    positions = np.asarray(positions, dtype=np.int64)
    epoch, within = positions // n, positions % n
    if shuffle:
        for e in np.unique(epoch):
            mask = epoch == e
            within[mask] = permute(within[mask], n, seed=seed, epoch=int(e))
    return within, epoch


def _round_keys(seed: int, epoch: int) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed}:{epoch}".encode(), digest_size=8 * ROUNDS).digest()
    return np.frombuffer(digest, dtype=np.uint64)


def _encrypt(x: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = x >> shift, x & mask
    for key in keys:
        # the upper bits, which depend on all bits below them
        left, right = right, left ^ (_mix(right + key) >> np.uint64(64 - half))
    return (left << shift) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014); overflow wraps, as it should."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return cast(np.ndarray, x ^ (x >> np.uint64(31)))
