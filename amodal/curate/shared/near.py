"""Near-duplicate texts: all pairs with a high Jaccard index of shingles (Broder, 1997), indexed."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from amodal.core import AmodalError

WORD = re.compile(r"\w+")


def shingles(text: str, size: int = 3) -> frozenset[tuple[str, ...]]:
    """The runs of `size` words of a text, in lower case.

    The whole text, if it is shorter; none for a text without words.
    """
    words = tuple(WORD.findall(text.lower()))
    return (
        frozenset(words[i : i + size] for i in range(max(1, len(words) - size + 1)))
        if words
        else frozenset()
    )


def near_duplicates(
    texts: Sequence[str], least: float = 0.8, *, size: int = 3
) -> list[tuple[int, int, float]]:
    """All pairs of near-duplicate texts, the nearest first. Exact.

    Two sets S of an index of at least `least` share one of the |S| - ceil(least |S|) + 1 rarest
    shingles of either (prefix filter; Chaudhuri et al., 2006). Texts without words are in no pair.

    Args:
        texts: to compare.
        least: Jaccard index, 0 < least <= 1.
        size: words of a shingle, at least 1.

    Returns:
        (i, j, Jaccard index), i < j.

    Raises:
        AmodalError: `least` or `size` is out of range.
    """
    if not 0 < least <= 1 or size < 1:
        raise AmodalError(
            f"near_duplicates needs 0 < least <= 1 and runs of 1 word or more, got {least} and "
            f"{size}"
        )
    sets = [shingles(text, size) for text in texts]
    document_frequency = Counter(s for shingle_set in sets for s in shingle_set)
    index_of: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    pairs = []
    for j, shingle_set in enumerate(sets):
        rarest = sorted(shingle_set, key=lambda s: (document_frequency[s], s))[
            : len(shingle_set) - math.ceil(least * len(shingle_set) - 1e-9) + 1
        ]
        for i in sorted({i for s in rarest for i in index_of[s]}):
            jaccard = len(sets[i] & shingle_set) / len(sets[i] | shingle_set)
            if jaccard >= least:
                pairs.append((i, j, jaccard))
        for s in rarest:
            index_of[s].append(j)
    return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))
