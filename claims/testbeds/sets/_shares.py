"""A split of few records: exact shares, where a hash of each key alone would leave parts empty."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def parts(
    groups: Sequence[str], valid: float, test: float, strata: Sequence[str] | None = None
) -> list[str]:
    """Put whole groups into parts, in the order of the hashes of their names.

    Args:
        groups: N names; records of one name are never divided.
        valid: share of the groups.
        test: share of the groups.
        strata: N classes, in each of which the shares hold; None for one.

    Returns:
        N of "train", "valid" and "test".
    """
    strata = strata if strata is not None else [""] * len(groups)
    of_group = dict(zip(groups, strata))
    placed: dict[str, str] = {}
    for stratum in sorted(set(strata)):
        members = sorted((g for g, s in of_group.items() if s == stratum), key=_order)
        tested = round(test * len(members))
        validated = tested + round(valid * len(members))
        for place, name in enumerate(members):
            placed[name] = "test" if place < tested else "valid" if place < validated else "train"
    return [placed[name] for name in groups]


def _order(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8, person=b"testbeds").hexdigest()
