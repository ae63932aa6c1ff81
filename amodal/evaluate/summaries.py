"""Whether summaries match their texts: similarity of matched pairs against shuffled pairs.

After CS-PaperSum (row 35 of the catalogue): alignment of embeddings and overlap of keywords
estimate quality where there is no reference summary. Any two texts or fields of a record can be
compared.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amodal.core import AmodalError
from amodal.stats.auroc import auroc, bootstrap

WORD = re.compile(r"[^\W\d_][\w-]+")


@dataclass(frozen=True)
class Matched:
    """Similarity of matched and of shuffled pairs.

    Args:
        likeness: (N,) of each record's own pair.
        null: (N,) of its first part with another record's second part.
        auroc: Probability that a matched pair is more similar than a shuffled one.
        interval: 95 % interval of it, from the bootstrap.
    """

    likeness: np.ndarray
    null: np.ndarray
    auroc: float
    interval: tuple[float, float]

    def unlikely(self, share: float = 0.05) -> np.ndarray:
        """Records to inspect by hand.

        Args:
            share: Their own pair is no more similar than the best `share` of shuffled ones.

        Returns:
            (n,) indices.
        """
        return np.flatnonzero(self.likeness <= np.quantile(self.null, 1 - share))

    @property
    def p(self) -> np.ndarray:
        """(N,) probability that a shuffled pair is as similar: (1 + shuffled ones as similar) / (1
        + N)."""
        above = len(self.null) - np.searchsorted(np.sort(self.null), self.likeness, side="left")
        return (1 + above) / (1 + len(self.null))

    def of(self, rows: np.ndarray, *, draws: int = 200, seed: int = 0) -> Matched:
        """The same for some of the records, with the same shuffled pairs."""
        return compare_likeness(self.likeness[rows], self.null[rows], draws=draws, seed=seed)


def matched(likeness_NN: np.ndarray, *, seed: int = 0, draws: int = 200) -> Matched:
    """Compare matched with shuffled pairs.

    Each record is paired with the next one in an order drawn by `seed`, never with itself.

    Args:
        likeness_NN: Similarity of each record's first part (rows) to each record's second part.
            Matched pairs are on the diagonal.
        seed: Of the order and of the bootstrap.
        draws: Of the bootstrap.

    Raises:
        AmodalError: Unless it is square, with two records or more.
    """
    table = np.asarray(likeness_NN, dtype=np.float64)
    n = len(table)
    if table.shape != (n, n) or n < 2:
        raise AmodalError(f"matched needs a square table of two records or more, got {table.shape}")
    return compare_likeness(
        table.diagonal().copy(), table[np.arange(n), derangement(n, seed)], draws=draws, seed=seed
    )


def derangement(n: int, seed: int = 0) -> np.ndarray:
    """Another record for each of n, each once: a ring in an order drawn by `seed`.

    Raises:
        AmodalError: For fewer than two records.
    """
    if n < 2:
        raise AmodalError(f"there is no other record among {n}")
    order = np.random.default_rng(seed).permutation(n)
    other = np.empty(n, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other


def compare_likeness(
    likeness: np.ndarray, null: np.ndarray, *, draws: int = 200, seed: int = 0
) -> Matched:
    """Compare two sets of similarities.

    Args:
        likeness: (N,) of matched pairs.
        null: (M,) of shuffled pairs.
        draws: Of the bootstrap.
        seed: Of the bootstrap.
    """
    scores = np.concatenate([likeness, null])
    wanted = np.repeat([True, False], [len(likeness), len(null)])
    interval = bootstrap(scores, wanted, draws=draws, seed=seed)
    return Matched(likeness, null, auroc(scores, wanted), interval)


def mean_interval(values: np.ndarray, *, draws: int = 200, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean (percentiles; Efron 1979)."""
    values, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def keywords(texts: Sequence[str], most: int = 10) -> list[frozenset[str]]:
    """Keywords of each text, by TF-IDF.

    Args:
        texts: N texts.
        most: Words of each text: those with the highest count times log(N / texts that have it),
            ties in alphabetical order. Words that all texts have are left out.
    """
    counts = [Counter(w.lower() for w in WORD.findall(text)) for text in texts]
    frequency = Counter(w for c in counts for w in c)
    weight = {w: math.log(len(texts) / n) for w, n in frequency.items()}
    ranked = [
        sorted((w for w in c if weight[w] > 0), key=lambda w: (-c[w] * weight[w], w))
        for c in counts
    ]
    return [frozenset(words[:most]) for words in ranked]


def overlap(first: Sequence[frozenset[str]], second: Sequence[frozenset[str]]) -> np.ndarray:
    """(N, M) Jaccard index of each two sets, 0 for two empty ones."""
    table = [[jaccard(a, b) for b in second] for a in first]
    return np.array(table, dtype=np.float64).reshape(len(first), len(second))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """The Jaccard index of two sets, 0 for two empty ones."""
    return len(a & b) / max(len(a | b), 1)


class TfIdf:
    """TF-IDF vectors, fitted to texts: count * (log((1 + N) / (1 + texts with it)) + 1), unit
    length.

    A text without a known word is 0.

    Args:
        texts: N texts to fit to.
        most: Size of the vocabulary: the words that most texts have, ties in alphabetical order.
    """

    def __init__(self, texts: Sequence[str], most: int = 4096):
        frequency = Counter(w for text in texts for w in {w.lower() for w in WORD.findall(text)})
        chosen = sorted(frequency, key=lambda w: (-frequency[w], w))[:most]
        self.vocabulary = {w: i for i, w in enumerate(chosen)}
        having = np.array([frequency[w] for w in chosen], dtype=np.float64)
        self.idf = np.log((1 + len(texts)) / (1 + having)) + 1

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32."""
        table = np.zeros((len(texts), len(self.vocabulary)), dtype=np.float32)
        for i, text in enumerate(texts):
            for word, count in Counter(w.lower() for w in WORD.findall(text)).items():
                if (column := self.vocabulary.get(word)) is not None:
                    table[i, column] = count * self.idf[column]
        return unit(table)


def unit(vectors: np.ndarray) -> np.ndarray:
    """(N, D) of length 1; 0 stays 0."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: np.ndarray = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return scaled
