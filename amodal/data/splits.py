"""The split into train, valid and test.

The part of a record is a pure function of its name. So nothing leaks from one part into another
when data is added or shuffled.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from amodal.core import unknown

PARTS = ("train", "valid", "test")
SPELLINGS = {
    "train": "train", "training": "train",
    "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip
"""How people name the parts of a split that their data already has."""
REPEATED_KEY = re.compile(r"([0-9a-f]{16})#\d+")
"""The key of a repeated row of a table without a key column: the key of the first one, and a
number."""


def by_hash(names: Sequence[str]) -> np.ndarray:
    """Split by the hash of names: 80 % train, 10 % valid, 10 % test.

    Records with one name (a patient, a place) stay together, and so do exact copies in a table
    without a key. Of three names or more no part is empty: an empty part takes the name nearest to
    it from the largest part. Only in data so small that this happens can a name change its part
    when data is added.

    Args:
        names: N.

    Returns:
        (N,) int8, indices into PARTS.
    """
    firsts = (match[1] if (match := REPEATED_KEY.fullmatch(name)) else name for name in names)
    # person: a hash of its own, independent of the seeds that are made of the same names
    hashes = b"".join(
        hashlib.blake2b(name.encode(), digest_size=8, person=b"split").digest() for name in firsts
    )
    share = np.frombuffer(hashes, dtype="<u8") / 2.0**64
    part = np.digitize(share, [0.8, 0.9]).astype(np.int8)
    # From the last part: train is nearly always the largest, and then what valid takes from its end
    # lies below what test took, so that parts stay intervals of the hash.
    for empty in (2, 1, 0):
        held = [np.unique(share[part == p]) for p in range(3)]
        most = max(range(3), key=lambda p: len(held[p]))
        if not len(held[empty]) and sum(map(len, held)) > 2:
            part[share == held[most][-1 if most < empty else 0]] = empty
    return part


def by_name(cells: Sequence[object], names: Sequence[str]) -> np.ndarray:
    """The split that the data brings.

    Data that has only "train" and "test" gets its "valid" from a tenth of "train", by hash.

    Args:
        cells: N names of parts, as in SPELLINGS. A record with None is split by hash.
        names: N, for the hashes.

    Returns:
        (N,) int8, indices into PARTS.

    Raises:
        AmodalError: a cell names no part.
    """
    part, hashed = np.empty(len(cells), dtype=np.int8), by_hash(names)
    for i, cell in enumerate(cells):
        if cell is None:
            part[i] = hashed[i]
        elif str(cell).lower() in SPELLINGS:
            part[i] = PARTS.index(SPELLINGS[str(cell).lower()])
        else:
            raise unknown(
                "part of a split",
                str(cell),
                SPELLINGS,
                "Mend the data, or use split_by in dataset.toml.",
            )
    if not (part == PARTS.index("valid")).any():
        part[(part == PARTS.index("train")) & (hashed == PARTS.index("valid"))] = PARTS.index(
            "valid"
        )
    return part
