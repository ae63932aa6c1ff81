"""Topics of a collection of papers: which has which, over the years and by venue."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from amodal.core import AmodalError
from amodal.curate.shared.sentences import STOP_WORDS
from amodal.diagnose.trends import Trend, trends


def topics_of(
    texts: Sequence[str], said: Sequence[frozenset[str]], topics: Mapping[str, Sequence[str]] | int
) -> dict[str, list[bool]]:
    """topic -> which texts have it: as whole words in any case, also in the plural."""
    if isinstance(topics, int):
        counted = Counter(w for words in said for w in words - STOP_WORDS)
        topics = {w: (w,) for w in sorted(counted, key=lambda w: (-counted[w], w))[:topics]}
    found = {}
    for name, words in topics.items():
        if isinstance(words, str) or not words:
            raise AmodalError(f"the topic {name!r} needs a list of words, got {words!r}")
        pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})(?:s|es)?\b", re.IGNORECASE)
        found[name] = [bool(pattern.search(text)) for text in texts]
    return found


def courses_of(
    has: Mapping[str, list[bool]], values: Sequence, seed: int
) -> tuple[dict[int, int], dict[str, Trend]]:
    """(year -> papers, in order, topic -> its trend); no trends of fewer than two years."""
    dated = np.array([i for i, v in enumerate(values) if v is not None], dtype=np.int64)
    try:
        years = [int(float(values[i])) for i in dated]
    except ValueError as error:
        raise AmodalError(f"a year is a number: {error}") from None
    counted = dict(sorted(Counter(years).items()))
    if len(counted) < 2 or not has:
        return counted, {}
    return counted, trends(years, {t: np.array(h)[dated] for t, h in has.items()}, seed=seed)


def by_venue(has: Mapping[str, list[bool]], places: Sequence) -> dict[str, dict[str, float]]:
    """topic -> venue -> share of the venue's papers that have the topic."""
    names = sorted(set(places) - {None}, key=str)
    return {
        topic: {
            plain(v): float(np.mean([h for h, p in zip(hits, places) if p == v])) for v in names
        }
        for topic, hits in has.items()
    }


def plain(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
