"""METEOR of exact words: how many words of a text are in its reference, and in how few pieces.

Banerjee and Lavie, ACL workshop 2005, their first stage alone: a word matches an equal one. Stems,
synonyms and paraphrases, which need data of a language, are left out, as the later program does it
for a language that it has no data of; so values are lower than those it prints with them. Numbers
are of the whole collection, with one reference a text.

Ours: nltk's takes WordNet, an English one, and scores texts one by one; where words occur once it
agrees (a test has its values).
"""

from __future__ import annotations

from collections.abc import Sequence

from amodal.stats.bleu import WORD

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5
"""Weight of the recall, and exponent and weight of the penalty, of 2005."""


def meteor(texts: Sequence[str], references: Sequence[str]) -> float:
    """P R / (alpha P + (1 - alpha) R), less a penalty for the number of pieces.

    P and R are the shares of words that match, of all texts and of all references; the penalty is
    gamma (pieces / matches) ** beta. Upper and lower case are the same.

    Args:
        texts: N texts.
        references: N references.

    Returns:
        From 0 to 1.

    Raises:
        ValueError: For unequal numbers.
    """
    if len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts and {len(references)} references")
    made = wanted = matches = pieces = 0
    for text, reference in zip(texts, references):
        one, other = (WORD.findall(t.lower()) for t in (text, reference))
        match = alignment(one, other)
        made, wanted, matches = made + len(one), wanted + len(other), matches + len(match)
        pieces += pieces_of(match)
    if not matches:
        return 0.0
    p, r = matches / made, matches / wanted
    penalty = GAMMA * float((pieces / matches) ** BETA)
    return p * r / (ALPHA * p + (1 - ALPHA) * r) * (1 - penalty)


def alignment(one: Sequence[str], other: Sequence[str]) -> dict[int, int]:
    """Place in one text -> place of an equal word in another, each at most once, as many as can be.

    The longest run of words that both have comes first, the earliest of equal ones, then the
    longest of what is left.
    """
    match: dict[int, int] = {}
    free = set(range(len(other)))
    while True:
        longest, start = 0, (0, 0)
        run: dict[int, int] = {}
        for i, word in enumerate(one):
            before, run = run, {}
            if i in match:
                continue
            for j in free:
                if other[j] == word:
                    run[j] = before.get(j - 1, 0) + 1
                    begin = (i - run[j] + 1, j - run[j] + 1)
                    if run[j] > longest or run[j] == longest and begin < start:
                        longest, start = run[j], begin
        if not longest:
            return match
        for k in range(longest):
            match[start[0] + k] = start[1] + k
            free.discard(start[1] + k)


def pieces_of(match: dict[int, int]) -> int:
    """In how few runs that are whole in both texts the matches lie."""
    return sum(match.get(i - 1) != j - 1 for i, j in match.items())
