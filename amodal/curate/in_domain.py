"""Moore-Lewis selection: texts that are like those of a domain, by a difference of cross-entropies.

Moore and Lewis, ACL 2010: H_domain(s) - H_general(s), cross-entropies a symbol; lower is nearer to
the domain. CUNI's multimodal translation (row 88, arXiv:1811.04697) selects texts beside its
captions so. The language models here are of bytes, n-grams interpolated as by Witten and Bell
(1991, method C):

    p(b | h) = (c(h b) + t(h) p(b | h')) / (c(h) + t(h))

c counts, t(h) is the number of different bytes after h, and h' is h without its first byte. Below
all of them bytes are equally likely.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from amodal.core import AmodalError

END, SYMBOLS = 256, 257


class ByteModel:
    """A byte-level n-gram language model. A text ends with a symbol of its own.

    Args:
        texts: to count.
        order: number of preceding bytes, at most.
    """

    def __init__(self, texts: Iterable[str], order: int = 4):
        self.order = order
        self.counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for text in texts:
            for context, symbol in _contexts(text, order):
                for start in range(len(context) + 1):
                    self.counts[context[start:]][symbol] += 1
        self.totals = {
            context: sum(counts_of.values()) for context, counts_of in self.counts.items()
        }

    def probability(self, context: tuple[int, ...], symbol: int) -> float:
        """p(symbol | context)."""
        p = 1 / SYMBOLS
        for start in range(len(context), -1, -1):  # from nothing before it to all of it
            counts_of = self.counts.get(context[start:])
            if counts_of is None:  # a longer one was not seen either
                return p
            p = (counts_of.get(symbol, 0) + len(counts_of) * p) / (
                self.totals[context[start:]] + len(counts_of)
            )
        return p

    def cross_entropy(self, text: str) -> float:
        """Nats a symbol, the end included."""
        contexts = _contexts(text, self.order)
        return -sum(
            math.log(self.probability(context, symbol)) for context, symbol in contexts
        ) / len(contexts)


def in_domain(
    texts: Sequence[str],
    like: Sequence[str],
    *,
    general: Sequence[str] | None = None,
    order: int = 4,
) -> np.ndarray:
    """Difference of cross-entropies under a domain model and a general model.

    Args:
        texts: N candidates.
        like: texts of the domain.
        general: texts of any kind; None for the candidates (a sample as large as `like` is
            enough).
        order: of the models, in bytes.

    Returns:
        (N,) float64, lower for texts of the domain; `np.argsort` puts the best first.

    Raises:
        AmodalError: `like` is empty, or `order` is negative.
    """
    if not len(like):
        raise AmodalError("in_domain needs texts of the domain, and `like` is empty")
    if order < 0:
        raise AmodalError(f"order is a number of bytes, at least 0, not {order}")
    general = texts if general is None else general
    domain_model, general_model = (ByteModel(some, order) for some in (like, general))
    return np.array(
        [domain_model.cross_entropy(text) - general_model.cross_entropy(text) for text in texts]
    )


def _contexts(text: str, order: int) -> list[tuple[tuple[int, ...], int]]:
    symbols = (*text.encode(), END)
    return [(symbols[max(0, i - order) : i], symbol) for i, symbol in enumerate(symbols)]
