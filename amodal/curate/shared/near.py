"""Texts that are nearly the same: Jaccard's index of runs of words (Broder, 1997), every pair above
a threshold, without comparing all."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from amodal.core import AmodalError

WORD = re.compile(r"\w+")


def shingles(text: str, size: int = 3) -> frozenset[tuple[str, ...]]:
    """Its runs of `size` words in lower case; the whole text, where it is shorter; none of a text
    without words."""
    said = tuple(WORD.findall(text.lower()))
    return (
        frozenset(said[i : i + size] for i in range(max(1, len(said) - size + 1)))
        if said
        else frozenset()
    )


def near_duplicates(
    texts: Sequence[str], least: float = 0.8, *, size: int = 3
) -> list[tuple[int, int, float]]:
    """(i, j, Jaccard's index) of all pairs i < j with an index of at least `least`, the nearest
    first. Exact: two sets S of such an index have one in common among the |S| - ceil(least |S|) + 1
    rarest shingles of either (prefix filter; Chaudhuri et al., 2006). Texts without words are
    nobody's duplicate. Raises AmodalError unless 0 < least <= 1 and size >= 1."""
    if not 0 < least <= 1 or size < 1:
        raise AmodalError(
            f"near_duplicates needs 0 < least <= 1 and runs of 1 word or more, got {least} and {size}"
        )
    sets = [shingles(text, size) for text in texts]
    held = Counter(s for each in sets for s in each)
    seen, found = defaultdict(list), []
    for j, each in enumerate(sets):
        rarest = sorted(each, key=lambda s: (held[s], s))[
            : len(each) - math.ceil(least * len(each) - 1e-9) + 1
        ]
        for i in sorted({i for s in rarest for i in seen[s]}):
            index = len(sets[i] & each) / len(sets[i] | each)
            if index >= least:
                found.append((i, j, index))
        for s in rarest:
            seen[s].append(j)
    return sorted(found, key=lambda pair: (-pair[2], pair[:2]))
