"""Texts that are like those of a domain, out of many that are of any kind: by how much less a
language model of the domain is surprised.

Moore and Lewis, ACL 2010: H_domain(s) - H_general(s), cross-entropies a symbol, the lower the more
of the domain. How CUNI's multimodal translation (row 88, arXiv:1811.04697) chose texts beside its
captions. The models here are of bytes, n-grams interpolated as Witten and Bell do (1991, method C):
p(b | h) = (c(h b) + t(h) p(b | h')) / (c(h) + t(h)), where c counts, t(h) is how many different
bytes follow h, and h' is h without its first; below all of them every byte is as likely as another.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from amodal.core import AmodalError

END, SYMBOLS = 256, 257


class ByteModel:
    """order: bytes that a byte is told from, at most. A text begins with nothing before it and ends
    with a symbol of its own."""

    def __init__(self, texts: Iterable[str], order: int = 4):
        self.order, self.counts = order, defaultdict(lambda: defaultdict(int))
        for text in texts:
            for before, symbol in _steps(text, order):
                for start in range(len(before) + 1):
                    self.counts[before[start:]][symbol] += 1
        self.totals = {before: sum(after.values()) for before, after in self.counts.items()}

    def chance(self, before: tuple[int, ...], symbol: int) -> float:
        p = 1 / SYMBOLS
        for start in range(len(before), -1, -1):  # from nothing before it to all of it
            after = self.counts.get(before[start:])
            if after is None:  # a longer one was not seen either
                return p
            p = (after.get(symbol, 0) + len(after) * p) / (self.totals[before[start:]] + len(after))
        return p

    def surprise(self, text: str) -> float:
        """Nats a symbol, the end counted."""
        steps = _steps(text, self.order)
        return -sum(math.log(self.chance(before, symbol)) for before, symbol in steps) / len(steps)


def in_domain(
    texts: Sequence[str],
    like: Sequence[str],
    *,
    general: Sequence[str] | None = None,
    order: int = 4,
) -> np.ndarray:
    """(N,) float64, one for each text: the lower, the more it is like the texts `like`;
    `np.argsort` brings the best first.

    general: texts of any kind that say what is usual, the texts themselves unless given (a sample
    of as many as `like` is enough); order: of the models, in bytes. Raises AmodalError where there
    is nothing to be like.
    """
    if not len(like):
        raise AmodalError("in_domain needs texts of the domain, and `like` is empty")
    if order < 0:
        raise AmodalError(f"order is a number of bytes, at least 0, not {order}")
    general = texts if general is None else general
    own, usual = (ByteModel(some, order) for some in (like, general))
    return np.array([own.surprise(text) - usual.surprise(text) for text in texts])


def _steps(text: str, order: int) -> list[tuple[tuple[int, ...], int]]:
    symbols = (*text.encode(), END)
    return [(symbols[max(0, i - order) : i], symbol) for i, symbol in enumerate(symbols)]
