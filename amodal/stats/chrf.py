"""chrF: similarity of a text and its reference in character n-grams. Popović, WMT 2015 (chrF1), and
WMT 2016 for beta = 2.

Ours: sacrebleu's `CHRF` agrees to 1e-9 (a test compares them), but rounds once more, and leaves out
the n-grams of a text whose reference is shorter. The numbers of a recorded claim would change with
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def runs(text: str, n: int) -> Counter[str]:
    """Counts of character n-grams, white space left out."""
    letters = "".join(text.split())
    return Counter(letters[i : i + n] for i in range(len(letters) - n + 1))


def chrf(
    texts: Sequence[str], references: Sequence[str], *, longest: int = 6, beta: float = 2.0
) -> float:
    """(1 + beta^2) P R / (beta^2 P + R), from 0 to 1.

    P and R are the shares of n-grams that are in the other text too, counted over all pairs and
    averaged over the lengths of which both sides have any.

    Args:
        texts: N texts.
        references: N references.
        longest: The largest n.
        beta: Weight of the recall.

    Raises:
        ValueError: For unequal numbers.
    """
    if len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts and {len(references)} references")
    precisions, recalls = [], []
    for n in range(1, longest + 1):
        pairs = [(runs(t, n), runs(r, n)) for t, r in zip(texts, references)]
        made, wanted = sum(t.total() for t, _ in pairs), sum(r.total() for _, r in pairs)
        if made and wanted:
            both = sum((t & r).total() for t, r in pairs)
            precisions.append(both / made)
            recalls.append(both / wanted)
    if not precisions or not (sum(precisions) or sum(recalls)):
        return 0.0
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + beta**2) * p * r / (beta**2 * p + r)
