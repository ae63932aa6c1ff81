"""What sets the records of a cluster apart from the others, in words.

Cells of tables, words of texts, brightness, length, … (`Attributes`), by one measure for all: the
difference of the means inside and outside, in standard deviations (of a class or a word: of the
indicator of having it).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amodal.data.attributes import Attributes

LEAST = 0.5
"""Standard deviations below which nothing is said."""
MOST_WORDS = 5000
"""Words of a text field that are looked at, the most frequent ones."""
MIN_SHARE = 0.2
"""Of a cluster's records, that have the class, the word or the number by which it is called."""
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
    short = _short_names([*attributes.names, *attributes.texts])
    properties = _properties(attributes, keys)
    return {
        c: ", ".join(_phrase(d, short[d.property.name]) for d in found[:most])
        for c, found in _differences(properties, cluster_N).items()
    }


def cluster_words(
    attributes: Attributes,
    keys: Sequence[str],
    cluster_N: np.ndarray,
    labels: Mapping[str, np.ndarray],
    *,
    most: int = 2,
) -> dict[int, str]:
    """Name clusters in few words, of labels, texts and attributes.

    Args:
        attributes: Of the data.
        keys: Of N records.
        cluster_N: Their clusters, below 0 for none.
        labels: Name -> (N,) classes with None, or float64 with NaN.
        most: Words of a name.

    Returns:
        cluster -> "Biscoe, high mass"; "" where nothing sets it apart.
    """
    short = _short_names([*labels, *attributes.names, *attributes.texts])
    of_labels = (p for name, values in labels.items() for p in _of_column(name, values))
    properties = itertools.chain(of_labels, _properties(attributes, keys))
    words = {
        c: dict.fromkeys(
            _word(d, short[d.property.name])
            for d in found
            if d.inside_known * (d.inside_mean if d.property.of else 1) >= MIN_SHARE
        )
        for c, found in _differences(properties, cluster_N).items()
    }
    return {c: ", ".join(list(some)[:most]) for c, some in words.items()}


@dataclass(frozen=True)
class _Difference:
    """How much more or less of a property a cluster has, effect in standard deviations, and for
    which share of its records it is known."""

    property: _Property
    effect: float
    inside_mean: float
    outside_mean: float
    inside_known: float


def _differences(
    properties: Iterable[_Property], cluster_N: np.ndarray
) -> dict[int, list[_Difference]]:
    """cluster -> what sets it apart, the largest effect first."""
    found: dict[int, list[_Difference]] = {int(c): [] for c in np.unique(cluster_N) if c >= 0}
    for one in properties:
        known = np.isfinite(one.values) & (cluster_N >= 0)
        spread = float(np.std(one.values[known])) if known.any() else 0.0
        if spread == 0.0:
            continue
        for c in found:
            inside, outside = known & (cluster_N == c), known & (cluster_N != c)
            if not inside.any() or not outside.any():
                continue
            inside_mean, outside_mean = (
                float(one.values[which].mean()) for which in (inside, outside)
            )
            effect = (inside_mean - outside_mean) / spread
            # a class or a word that is rare in a cluster says little of what the cluster is
            if (effect if one.of else abs(effect)) >= LEAST:
                share = float(inside.sum() / (cluster_N == c).sum())
                found[c].append(_Difference(one, effect, inside_mean, outside_mean, share))
    return {c: sorted(some, key=lambda d: -abs(d.effect)) for c, some in found.items()}


def _properties(attributes: Attributes, keys: Sequence[str]) -> Iterator[_Property]:
    for name, values in attributes.all_values(keys).items():
        if name in attributes.texts:
            yield from _words(name, values)
            continue
        yield from _of_column(name, values)


def _of_column(name: str, values: np.ndarray) -> Iterator[_Property]:
    """Of (N,) numbers with NaN, or classes with None."""
    if values.dtype.kind == "f":
        yield _Property(name, values)
        return
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


def _phrase(difference: _Difference, name: str) -> str:
    inside_mean, outside_mean = difference.inside_mean, difference.outside_mean
    if difference.property.of:
        return f"{name} {difference.property.of} {inside_mean:.0%} (else {outside_mean:.0%})"
    # as many digits as the difference takes
    places = max(1 - math.floor(math.log10(abs(inside_mean - outside_mean))), 0)
    shown = [_number(value, places) for value in (inside_mean, outside_mean)]
    return f"{name} {shown[0]} (else {shown[1]})"


def _word(difference: _Difference, name: str) -> str:
    return difference.property.of or f"{'high' if difference.effect > 0 else 'low'} {name}"


def _number(value: float, places: int) -> str:
    if places > MAX_PLACES:
        return f"{value:.3g}"
    return f"{value:,.{places}f}" if abs(value) >= 10_000 else f"{value:.{places}f}"


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without their field, where that leaves them different."""
    ends = [name.partition(".")[2] or name for name in names]
    return {name: end if ends.count(end) == 1 else name for name, end in zip(names, ends)}
