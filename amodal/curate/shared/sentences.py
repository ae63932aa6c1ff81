"""Sentences of a text, and which of them say most of it: TextRank, the centroid, and what they have
to beat (lead, random)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from amodal.core import AmodalError

Rank = Callable[[Sequence[str]], np.ndarray]
"""Sentences (n) in their order -> (n,) float64, the higher, the more a summary should have it."""

END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9\u3040-\u9fff])|\n\s*\n|(?<=[。！？])")
NO_END = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|e\.g|i\.e|cf|vs|et al|[Ff]igs?|[Ee]qs?|[Ss]ec|[Nn]o|Dr|Mr|Mrs|Ms|Prof|St|approx|resp)\.$"
)
WORD = re.compile(r"[^\W\d_][\w-]+")
COMMON = frozenset(
    "the an and or but of in on at to for from by with as is are was were be been being it its this that these those which who whom whose "
    "we our they their he she his her you your has have had do does did not no nor so than then there here can could may might will would "
    "shall should must also such some any each other more most very into over under about between through while when where if".split()
)
"""English words that two sentences may share without being about the same. Texts in other languages
keep theirs."""
DAMPING = 0.85


def sentences(text: str) -> list[str]:
    """The sentences, in order, white space made single. A paragraph ends a sentence; an initial or
    a usual abbreviation does not."""
    found, begin = [], 0
    for gap in END.finditer(text):
        piece = text[begin : gap.end()]
        if NO_END.search(piece.rstrip()) and "\n" not in gap[0]:
            continue
        found.append(piece)
        begin = gap.end()
    return [s for s in (" ".join(piece.split()) for piece in [*found, text[begin:]]) if s]


def words(text: str) -> list[str]:
    """Its words of two letters or more in lower case, without common ones."""
    return [w for w in (found.lower() for found in WORD.findall(text)) if w not in COMMON]


def textrank(sentences_n: Sequence[str]) -> np.ndarray:
    """(n,) score of each sentence in the graph of what they share (Mihalcea and Tarau, EMNLP 2004,
    section 4).

    Likeness of two sentences: words that both have / (log n_words + log n_words), 0 where that is
    not above 0. Score: s_i = (1 - d) + d sum_j w_ji s_j / sum_k w_jk with d = .85, solved exactly.
    """
    bags = [Counter(words(s)) for s in sentences_n]
    size = np.array([max(bag.total(), 1) for bag in bags], dtype=np.float64)
    shared = np.array(
        [[len(a.keys() & b.keys()) for b in bags] for a in bags], dtype=np.float64
    ).reshape(len(bags), len(bags))
    scale = np.log(size)[:, None] + np.log(size)
    weight = np.divide(shared, scale, out=np.zeros_like(shared), where=scale > 0)
    np.fill_diagonal(weight, 0)
    return _walk(weight)


def keyterms(text: str, count: int) -> list[str]:
    """Up to `count` words of a text, the best first: TextRank in the graph of words, a link where
    two stand side by side once common words are left out (section 3 of the same paper, window 2;
    words are not joined to phrases and every kind of word may be one). Equal ones in the order of
    the text."""
    said = words(text)
    place = {w: i for i, w in enumerate(dict.fromkeys(said))}
    weight = np.zeros((len(place), len(place)))
    for a, b in zip(said, said[1:]):
        if a != b:
            weight[place[a], place[b]] = weight[place[b], place[a]] = 1
    order = np.argsort(-_walk(weight).round(12), kind="stable")[:count]
    return [list(place)[i] for i in order]


def _walk(weight: np.ndarray) -> np.ndarray:
    """(n,) TextRank's scores in a graph of weights (n, n), symmetric, 0 on the diagonal."""
    out, n = weight.sum(1, keepdims=True), len(weight)
    share = np.divide(
        weight, out, out=np.zeros_like(weight), where=out > 0
    )  # [j, i]: what of j's weight goes to i
    return (
        np.linalg.solve(np.eye(n) - DAMPING * share.T, np.full(n, 1 - DAMPING))
        if n
        else np.zeros(0)
    )


def centroid(sentences_n: Sequence[str]) -> np.ndarray:
    """(n,) cosine of each sentence's words with the sum of all of them (after Radev et al., 2004,
    MEAD). A word weighs its count times log((1 + n) / (1 + sentences with it)) + 1: the sentences
    of the text stand for the corpus."""
    bags = [Counter(words(s)) for s in sentences_n]
    held = Counter(w for bag in bags for w in bag)
    place = {w: i for i, w in enumerate(held)}
    table = np.zeros((len(bags), len(place)))
    for i, bag in enumerate(bags):
        for w, count in bag.items():
            table[i, place[w]] = count * (np.log((1 + len(bags)) / (1 + held[w])) + 1)
    middle = table.sum(0)
    scale = np.linalg.norm(table, axis=1) * np.linalg.norm(middle)
    return np.divide(table @ middle, scale, out=np.zeros(len(bags)), where=scale > 0)


def lead(sentences_n: Sequence[str]) -> np.ndarray:
    """(n,) the earlier the higher: what a summary has to be better than."""
    return -np.arange(len(sentences_n), dtype=np.float64)


def chance(seed: int) -> Rank:
    """A rank that draws, for each text from `seed` and its sentences alone: what a summary must be
    better than in any case."""
    import hashlib

    def rank(sentences_n: Sequence[str]) -> np.ndarray:
        digest = hashlib.blake2b(
            "\0".join(sentences_n).encode("utf-8", "surrogatepass"), digest_size=8
        ).digest()
        return np.random.default_rng([seed, int.from_bytes(digest)]).random(len(sentences_n))

    return rank


def best(sentences_n: Sequence[str], rank: Rank, count: int) -> list[str]:
    """The `count` sentences of the highest rank in the order of the text, the first of those that
    are equal; all, if there are fewer. Raises AmodalError for a count below 1."""
    if count < 1:
        raise AmodalError(f"a summary has at least 1 sentence, not {count}")
    order = np.argsort(-rank(sentences_n), kind="stable")[:count]
    return [sentences_n[i] for i in sorted(order.tolist())]
