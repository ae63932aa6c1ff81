"""What sets the records of a cluster apart from the others, in words.

Cells of tables, words of texts, brightness, length, … (`Attributes`), by one measure for all: the
difference of the means inside and outside, in standard deviations (of a class or a word: of the
indicator of having it).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from amodal.data.attributes import Attributes

LEAST = 0.5
"""Standard deviations below which nothing is said."""
MOST_WORDS = 5000
"""Words of a text field that are looked at, the most frequent ones."""
MAX_PLACES = 6
MIN_RECORDS = 3
"""With a word, or a class."""


@dataclass(frozen=True)
class _Property:
    """Something that records have more or less of.

    Args:
        name: "body.flipper_length_mm".
        values: (N,) float64, NaN where unknown; 0 and 1 for a class or a word.
        of: The class or the word, "" for a number.
    """

    name: str
    values: np.ndarray
    of: str = ""


def descriptions(
    attributes: Attributes, keys: Sequence[str], cluster_N: np.ndarray, *, most: int = 3
) -> dict[int, str]:
    """Describe clusters.

    Args:
        attributes: Of the data.
        keys: Of N records.
        cluster_N: Their clusters, below 0 for none.
        most: Properties that are named.

    Returns:
        cluster -> "flipper_length_mm 217 (else 193), island Biscoe 98 % (else 12 %)"; "" where
        nothing sets it apart.
    """
    phrases: dict[int, list[tuple[float, str]]] = {
        int(c): [] for c in np.unique(cluster_N) if c >= 0
    }
    short = _short_names([*attributes.names, *attributes.texts])
    for one in _properties(attributes, keys):
        known = np.isfinite(one.values) & (cluster_N >= 0)
        spread = float(np.std(one.values[known])) if known.any() else 0.0
        if spread == 0.0:
            continue
        for c in phrases:
            inside, outside = known & (cluster_N == c), known & (cluster_N != c)
            if not inside.any() or not outside.any():
                continue
            inside_mean, outside_mean = (
                float(one.values[inside].mean()),
                float(one.values[outside].mean()),
            )
            effect = (inside_mean - outside_mean) / spread
            # a class or a word that is rare in a cluster says little of what the cluster is
            if (effect if one.of else abs(effect)) >= LEAST:
                phrases[c].append(
                    (abs(effect), _phrase(one, short[one.name], inside_mean, outside_mean))
                )
    return {c: ", ".join(_strongest(some, most)) for c, some in phrases.items()}


def _properties(attributes: Attributes, keys: Sequence[str]) -> Iterator[_Property]:
    for name, values in attributes.all_values(keys).items():
        if name in attributes.texts:
            yield from _words(name, values)
            continue
        if attributes.names[name] == "number":
            yield _Property(name, values)
            continue
        known = np.array([v is not None for v in values])
        named, counts = np.unique(values[known].astype(str), return_counts=True)
        for value in named[counts >= MIN_RECORDS]:
            has = np.where(known, (values == value).astype(np.float64), np.nan)
            yield _Property(name, has, str(value))


def _words(name: str, texts: np.ndarray) -> Iterator[_Property]:
    from sklearn.feature_extraction.text import CountVectorizer

    known = np.array([text is not None for text in texts])
    counter = CountVectorizer(binary=True, min_df=MIN_RECORDS, max_features=MOST_WORDS)
    try:
        has = counter.fit_transform(texts[known])
    except ValueError:  # no word is in so many texts
        return
    columns = has.tocsc()
    for place, word in enumerate(counter.get_feature_names_out()):
        values = np.full(len(texts), np.nan)
        values[known] = columns[:, [place]].toarray()[:, 0]
        yield _Property(name, values, str(word))


def _strongest(phrases: Sequence[tuple[float, str]], most: int) -> list[str]:
    return [phrase for _, phrase in sorted(phrases, key=lambda one: -one[0])[:most]]


def _phrase(one: _Property, name: str, inside_mean: float, outside_mean: float) -> str:
    if one.of:
        return f"{name} {one.of} {inside_mean:.0%} (else {outside_mean:.0%})"
    # as many digits as the difference takes
    places = max(1 - math.floor(math.log10(abs(inside_mean - outside_mean))), 0)
    shown = [_number(value, places) for value in (inside_mean, outside_mean)]
    return f"{name} {shown[0]} (else {shown[1]})"


def _number(value: float, places: int) -> str:
    if places > MAX_PLACES:
        return f"{value:.3g}"
    return f"{value:,.{places}f}" if abs(value) >= 10_000 else f"{value:.{places}f}"


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without their field, where that leaves them different."""
    ends = [name.partition(".")[2] or name for name in names]
    return {name: end if ends.count(end) == 1 else name for name, end in zip(names, ends)}
