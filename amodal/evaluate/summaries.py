"""Whether summaries are of what they stand beside: likeness of matched pairs against that of
shuffled ones, by vectors or by keywords.

After CS-PaperSum (row 35 of the catalogue): alignment of embeddings and overlap of keywords as
estimates of quality where nobody has written a summary to compare with. Any two texts or fields of
a record may be asked.
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
    """likeness: (N,) of each record's own pair; null: (N,) of its first part with another record's
    second; auroc: chance that an own pair is more alike than a shuffled one; interval: 95 %, over
    bootstrap draws."""

    likeness: np.ndarray
    null: np.ndarray
    auroc: float
    interval: tuple[float, float]

    def unlikely(self, share: float = 0.05) -> np.ndarray:
        """(n,) the records whose own pair is no more alike than the best `share` of shuffled ones:
        to look at by hand."""
        return np.flatnonzero(self.likeness <= np.quantile(self.null, 1 - share))

    @property
    def p(self) -> np.ndarray:
        """(N,) chance that a shuffled pair is as alike as each record's own: (1 + shuffled ones as
        alike) / (1 + N)."""
        above = len(self.null) - np.searchsorted(np.sort(self.null), self.likeness, side="left")
        return (1 + above) / (1 + len(self.null))

    def of(self, rows: np.ndarray, *, draws: int = 200, seed: int = 0) -> Matched:
        """The same for some of the records, beside the same others'."""
        return judged(self.likeness[rows], self.null[rows], draws=draws, seed=seed)


def matched(likeness_NN: np.ndarray, *, seed: int = 0, draws: int = 200) -> Matched:
    """likeness_NN: of each record's first part (rows) to each record's second; own pairs on the
    diagonal. Beside each stands the next one's second part in an order that `seed` draws, so that
    no record meets itself. Raises AmodalError unless it is square, with two records or more."""
    table = np.asarray(likeness_NN, dtype=np.float64)
    n = len(table)
    if table.shape != (n, n) or n < 2:
        raise AmodalError(f"matched needs a square table of two records or more, got {table.shape}")
    return judged(
        table.diagonal().copy(), table[np.arange(n), others(n, seed)], draws=draws, seed=seed
    )


def others(n: int, seed: int = 0) -> np.ndarray:
    """(n,) int64: for each of two records or more another one, each once; a ring in an order that
    `seed` draws."""
    if n < 2:
        raise AmodalError(f"there is no other record among {n}")
    order = np.random.default_rng(seed).permutation(n)
    other = np.empty(n, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other


def judged(own: np.ndarray, null: np.ndarray, *, draws: int = 200, seed: int = 0) -> Matched:
    """own: (N,) likeness of matched pairs; null: (M,) of shuffled ones."""
    scores, wanted = np.concatenate([own, null]), np.repeat([True, False], [len(own), len(null)])
    return Matched(
        own, null, auroc(scores, wanted), bootstrap(scores, wanted, draws=draws, seed=seed)
    )


def mean_interval(values: np.ndarray, *, draws: int = 200, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over records drawn anew with replacement (percentiles; Efron 1979)."""
    values, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def keywords(texts: Sequence[str], most: int = 10) -> list[frozenset[str]]:
    """The `most` words of each text with the highest count times log(N / texts that have it), ties
    in the order of the alphabet. Words that all texts have say nothing and are left out."""
    counts = [Counter(w.lower() for w in WORD.findall(text)) for text in texts]
    held = Counter(w for c in counts for w in c)
    weight = {w: math.log(len(texts) / n) for w, n in held.items()}
    ranked = [
        sorted((w for w in c if weight[w] > 0), key=lambda w: (-c[w] * weight[w], w))
        for c in counts
    ]
    return [frozenset(words[:most]) for words in ranked]


def overlap(first: Sequence[frozenset[str]], second: Sequence[frozenset[str]]) -> np.ndarray:
    """(N, M) Jaccard's index of each two sets, 0 of two empty ones."""
    table = [[jaccard(a, b) for b in second] for a in first]
    return np.array(table, dtype=np.float64).reshape(len(first), len(second))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / max(len(a | b), 1)


class TfIdf:
    """Vectors of texts by their words, learnt from some texts: count * (log((1 + N) / (1 + texts
    with it)) + 1), of length 1; 0 of a text without a known word. Known are the `most` words that
    most texts have, ties by the alphabet."""

    def __init__(self, texts: Sequence[str], most: int = 4096):
        held = Counter(w for text in texts for w in {w.lower() for w in WORD.findall(text)})
        chosen = sorted(held, key=lambda w: (-held[w], w))[:most]
        self.place = {w: i for i, w in enumerate(chosen)}
        self.weight = (
            np.log((1 + len(texts)) / (1 + np.array([held[w] for w in chosen], dtype=np.float64)))
            + 1
        )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32."""
        table = np.zeros((len(texts), len(self.place)), dtype=np.float32)
        for i, text in enumerate(texts):
            for word, count in Counter(w.lower() for w in WORD.findall(text)).items():
                if word in self.place:
                    table[i, self.place[word]] = count * self.weight[self.place[word]]
        return unit(table)


def unit(vectors: np.ndarray) -> np.ndarray:
    """(N, D) of length 1; 0 stays 0."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
