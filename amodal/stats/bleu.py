"""BLEU: how many runs of words of a text are in its reference. Papineni et al., ACL 2002, with one
reference a text, over a whole collection.

Ours: sacrebleu's agrees on the same words (a test compares them), and would be a dependency for one
formula. Words are runs of letters and digits; every other sign is a word of its own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

WORD = re.compile(r"\w+|[^\w\s]")


def word_runs(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Counts of the runs of n words."""
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu(texts: Sequence[str], references: Sequence[str], *, longest: int = 4) -> float:
    """The geometric mean of the precisions of runs of 1 to `longest` words, less a brevity penalty.

    A run counts at most as often as the reference has it. Where a length has no match at all, the
    value is 0.

    Args:
        texts: N texts.
        references: N references.
        longest: The largest n.

    Returns:
        From 0 to 1.

    Raises:
        ValueError: For unequal numbers.
    """
    if len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts and {len(references)} references")
    pairs = [(WORD.findall(t), WORD.findall(r)) for t, r in zip(texts, references)]
    logs = []
    for n in range(1, longest + 1):
        made = sum(max(len(t) - n + 1, 0) for t, _ in pairs)
        both = sum((word_runs(t, n) & word_runs(r, n)).total() for t, r in pairs)
        if not both:
            return 0.0
        logs.append(math.log(both / made))
    length, wanted = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return math.exp(sum(logs) / longest + min(0.0, 1 - wanted / length))
