"""Whether summaries are of what they stand beside: likeness of matched pairs against that of shuffled ones, by vectors or by keywords.

After CS-PaperSum (row 35 of the catalogue): alignment of embeddings and overlap of keywords as estimates of quality where nobody has
written a summary to compare with. Any two texts or senses of a record may be asked.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate._auroc import auroc, bootstrap

WORD = re.compile(r"[^\W\d_][\w-]+")


@dataclass(frozen=True)
class Matched:
    """likeness: (N,) of each record's own pair; null: (N,) of its first part with another record's second; auroc: chance that an own pair
    is more alike than a shuffled one; interval: 95 %, over bootstrap draws."""

    likeness: np.ndarray
    null: np.ndarray
    auroc: float
    interval: tuple[float, float]

    def unlikely(self, share: float = 0.05) -> np.ndarray:
        """(n,) the records whose own pair is no more alike than the best `share` of shuffled ones: to look at by hand."""
        return np.flatnonzero(self.likeness <= np.quantile(self.null, 1 - share))


def matched(likeness_NN: np.ndarray, *, seed: int = 0, draws: int = 200) -> Matched:
    """likeness_NN: of each record's first part (rows) to each record's second; own pairs on the diagonal. Beside each stands
    the next one's second part in an order that `seed` draws, so that no record meets itself. Raises AmodalError unless it is square, with
    two records or more."""
    table = np.asarray(likeness_NN, dtype=np.float64)
    n = len(table)
    if table.shape != (n, n) or n < 2:
        raise AmodalError(f"matched needs a square table of two records or more, got {table.shape}")
    order = np.random.default_rng(seed).permutation(n)
    other = np.empty(n, dtype=np.int64)
    other[order] = np.roll(order, 1)
    own, null = table.diagonal().copy(), table[np.arange(n), other]
    scores, wanted = np.concatenate([own, null]), np.repeat([True, False], n)
    return Matched(own, null, auroc(scores, wanted), bootstrap(scores, wanted, draws=draws, seed=seed))


def keywords(texts: Sequence[str], most: int = 10) -> list[frozenset[str]]:
    """The `most` words of each text with the highest count times log(N / texts that have it), ties in the order of the alphabet. Words that
    all texts have say nothing and are left out."""
    counts = [Counter(w.lower() for w in WORD.findall(text)) for text in texts]
    held = Counter(w for c in counts for w in c)
    weight = {w: math.log(len(texts) / n) for w, n in held.items()}
    ranked = [sorted((w for w in c if weight[w] > 0), key=lambda w: (-c[w] * weight[w], w)) for c in counts]
    return [frozenset(words[:most]) for words in ranked]


def overlap(first: Sequence[frozenset[str]], second: Sequence[frozenset[str]]) -> np.ndarray:
    """(N, M) Jaccard's index of each two sets, 0 of two empty ones."""
    table = [[len(a & b) / max(len(a | b), 1) for b in second] for a in first]
    return np.array(table, dtype=np.float64).reshape(len(first), len(second))
