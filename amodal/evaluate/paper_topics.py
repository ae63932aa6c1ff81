"""Topics of a collection of papers, over the years and by venue."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.curate.shared.sentences import STOP_WORDS
from amodal.diagnose.trends import Trend, trends


def topics_of(
    texts: Sequence[str],
    keyword_sets: Sequence[frozenset[str]],
    topics: Mapping[str, Sequence[str]] | int,
) -> dict[str, list[bool]]:
    """Find the topics of texts: whole words in any case, singular or plural.

    Args:
        texts: N texts.
        keyword_sets: Keywords of each text.
        topics: Name -> words of which a text has one; or how many of the most frequent keywords are
            topics.

    Returns:
        topic -> whether each text has it.

    Raises:
        AmodalError: For a topic without a list of words.
    """
    if isinstance(topics, int):
        counted = Counter(w for words in keyword_sets for w in words - STOP_WORDS)
        topics = {w: (w,) for w in sorted(counted, key=lambda w: (-counted[w], w))[:topics]}
    has = {}
    for name, words in topics.items():
        if isinstance(words, str) or not words:
            raise AmodalError(f"the topic {name!r} needs a list of words, got {words!r}")
        pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})(?:s|es)?\b", re.IGNORECASE)
        has[name] = [bool(pattern.search(text)) for text in texts]
    return has


def read_topics(text: str) -> dict[str, tuple[str, ...]] | int:
    """Topics as a command line gives them.

    Args:
        text: A number, or a file of lines "name: word, word".

    Returns:
        What `topics_of` takes.

    Raises:
        AmodalError: For what is neither, and a line without a name or words.
    """
    if text.isdecimal():
        return int(text)
    if not Path(text).is_file():
        raise AmodalError(
            f"topics are a number, or a file of lines such as 'vision: image, pixel'; {text!r} is "
            "neither"
        )
    topics = {}
    for number, line in enumerate(Path(text).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        name, _, rest = line.partition(":")
        words = tuple(word.strip() for word in rest.split(",") if word.strip())
        if not name.strip() or not words:
            raise AmodalError(
                f"line {number} of {text} is {line!r}; a topic is written 'vision: image, pixel'"
            )
        topics[name.strip()] = words
    return topics


def courses_of(
    has: Mapping[str, list[bool]], values: Sequence[str | float | None], seed: int
) -> tuple[dict[int, int], dict[str, Trend]]:
    """Trends of topics over the years.

    Args:
        has: topic -> whether each paper has it.
        values: The year of each paper, None where unknown.
        seed: Of the permutation test.

    Returns:
        Year -> papers, in order; topic -> its trend, empty for fewer than two years.

    Raises:
        AmodalError: If a year is no number.
    """
    dated = [(i, v) for i, v in enumerate(values) if v is not None]
    try:
        years = [int(float(v)) for _, v in dated]
    except ValueError as error:
        raise AmodalError(f"a year is a number: {error}") from None
    counted = dict(sorted(Counter(years).items()))
    if len(counted) < 2 or not has:
        return counted, {}
    by_paper = {topic: [hits[i] for i, _ in dated] for topic, hits in has.items()}
    return counted, trends(years, by_paper, seed=seed)


def by_venue(
    has: Mapping[str, list[bool]], venues: Sequence[str | float | None]
) -> dict[str, dict[str, float]]:
    """topic -> venue -> share of the venue's papers that have the topic."""
    names = sorted({v for v in venues if v is not None}, key=str)
    return {
        topic: {
            plain(name): float(np.mean([h for h, v in zip(hits, venues) if v == name]))
            for name in names
        }
        for topic, hits in has.items()
    }


def plain(value: object) -> str:
    """A value as text, whole numbers without a decimal point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
