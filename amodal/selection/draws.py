"""Random numbers of records, a function of their keys alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def uniform_of(keys: Sequence[str], seed: int, *counters: int) -> np.ndarray:
    """(N,) uniform numbers in [0, 1), the same whatever other records there are.

    Args:
        keys: Of the records.
        seed: Other seeds give other numbers.
        counters: So do others of these.
    """
    salt = hashlib.blake2b(repr((seed, *counters)).encode(), digest_size=16).digest()
    digests = (hashlib.blake2b(k.encode(), digest_size=8, salt=salt).digest() for k in keys)
    return np.frombuffer(b"".join(digests), dtype="<u8") / 2.0**64
