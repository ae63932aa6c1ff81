"""Sentences of a text, and extractive ranks of them: TextRank, centroid, and baselines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from amodal.core import AmodalError

Rank = Callable[[Sequence[str]], np.ndarray]
"""Sentences (n) in their order -> scores (n,) float64."""

END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9\u3040-\u9fff])|\n\s*\n|(?<=[。！？])")
NO_END = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|e\.g|i\.e|cf|vs|et al|[Ff]igs?|[Ee]qs?|[Ss]ec|[Nn]o"
    r"|Dr|Mr|Mrs|Ms|Prof|St|approx|resp)\.$"
)
WORD = re.compile(r"[^\W\d_][\w-]+")
STOP_WORDS = frozenset(
    "the an and or but of in on at to for from by with as is are was were be been being it its "
    "this that these those which who whom whose "
    "we our they their he she his her you your has have had do does did not no nor so than then "
    "there here can could may might will would "
    "shall should must also such some any each other more most very into over under about between "
    "through while when where if".split()
)
"""English words that two sentences may share without being about the same. Texts in other languages
keep theirs."""
DAMPING = 0.85


def sentences(text: str) -> list[str]:
    """Sentences of a text, in order, white space normalised.

    A paragraph ends a sentence; an initial or a usual abbreviation does not.
    """
    pieces, start = [], 0
    for gap in END.finditer(text):
        piece = text[start : gap.end()]
        if NO_END.search(piece.rstrip()) and "\n" not in gap[0]:
            continue
        pieces.append(piece)
        start = gap.end()
    return [s for s in (" ".join(piece.split()) for piece in [*pieces, text[start:]]) if s]


def words(text: str) -> list[str]:
    """Words of two letters or more in lower case, without stop words."""
    return [w for w in map(str.lower, WORD.findall(text)) if w not in STOP_WORDS]


def textrank(sentences_n: Sequence[str]) -> np.ndarray:
    """TextRank of each sentence (Mihalcea and Tarau, EMNLP 2004, section 4).

        s_i = (1 - d) + d sum_j w_ji s_j / sum_k w_jk,  d = 0.85, solved exactly
        w_ij = common words / (log n_words_i + log n_words_j), 0 where that is not above 0

    Args:
        sentences_n: in their order.

    Returns:
        (n,) float64
    """
    word_counts = [Counter(words(s)) for s in sentences_n]
    size = np.array([max(counts.total(), 1) for counts in word_counts], dtype=np.float64)
    common = np.array(
        [[len(a.keys() & b.keys()) for b in word_counts] for a in word_counts], dtype=np.float64
    ).reshape(len(word_counts), len(word_counts))
    scale = np.log(size)[:, None] + np.log(size)
    weight = np.divide(common, scale, out=np.zeros_like(common), where=scale > 0)
    np.fill_diagonal(weight, 0)
    return _textrank_scores(weight)


def keyterms(text: str, count: int) -> list[str]:
    """Keywords of a text by TextRank, best first; of equal ones the first.

    Two words are linked where they are adjacent after stop words are removed (section 3 of the
    paper, window 2). Words are not joined to phrases, and any part of speech may be one.

    Args:
        text: to read.
        count: words at most.
    """
    word_list = words(text)
    index_of = {w: i for i, w in enumerate(dict.fromkeys(word_list))}
    weight = np.zeros((len(index_of), len(index_of)))
    for a, b in zip(word_list, word_list[1:]):
        if a != b:
            weight[index_of[a], index_of[b]] = weight[index_of[b], index_of[a]] = 1
    order = np.argsort(-_textrank_scores(weight).round(12), kind="stable")[:count]
    return [list(index_of)[i] for i in order]


def _textrank_scores(weight: np.ndarray) -> np.ndarray:
    """(n,) TextRank scores in a graph of weights (n, n), symmetric, 0 on the diagonal."""
    out, n = weight.sum(1, keepdims=True), len(weight)
    # [j, i]: what of j's weight goes to i
    share = np.divide(weight, out, out=np.zeros_like(weight), where=out > 0)
    if not n:
        return np.zeros(0)
    scores: np.ndarray = np.linalg.solve(np.eye(n) - DAMPING * share.T, np.full(n, 1 - DAMPING))
    return scores


def centroid(sentences_n: Sequence[str]) -> np.ndarray:
    """(n,) cosine of each sentence's word vector with their sum (after Radev et al., 2004, MEAD).

    A word weighs its count times log((1 + n) / (1 + sentences with it)) + 1: the sentences of the
    text stand for the corpus.
    """
    word_counts = [Counter(words(s)) for s in sentences_n]
    document_frequency = Counter(w for counts in word_counts for w in counts)
    index_of = {w: i for i, w in enumerate(document_frequency)}
    table = np.zeros((len(word_counts), len(index_of)))
    for i, counts in enumerate(word_counts):
        for w, count in counts.items():
            table[i, index_of[w]] = count * (
                np.log((1 + len(word_counts)) / (1 + document_frequency[w])) + 1
            )
    centre = table.sum(0)
    scale = np.linalg.norm(table, axis=1) * np.linalg.norm(centre)
    cosine: np.ndarray = np.divide(
        table @ centre, scale, out=np.zeros(len(word_counts)), where=scale > 0
    )
    return cosine


def lead(sentences_n: Sequence[str]) -> np.ndarray:
    """(n,) higher for earlier sentences: the lead baseline."""
    return -np.arange(len(sentences_n), dtype=np.float64)


def random_rank(seed: int) -> Rank:
    """A random rank, the weakest baseline: a function of `seed` and the sentences alone."""
    import hashlib

    def rank(sentences_n: Sequence[str]) -> np.ndarray:
        digest = hashlib.blake2b(
            "\0".join(sentences_n).encode("utf-8", "surrogatepass"), digest_size=8
        ).digest()
        return np.random.default_rng([seed, int.from_bytes(digest)]).random(len(sentences_n))

    return rank


def top_sentences(sentences_n: Sequence[str], rank: Rank, count: int) -> list[str]:
    """The `count` highest-ranked sentences in the order of the text; of equal ones the first.

    Args:
        sentences_n: in their order.
        rank: scores them.
        count: all, if there are fewer.

    Raises:
        AmodalError: `count` is below 1.
    """
    if count < 1:
        raise AmodalError(f"a summary has at least 1 sentence, not {count}")
    order = np.argsort(-rank(sentences_n), kind="stable")[:count]
    return [sentences_n[i] for i in sorted(order.tolist())]
