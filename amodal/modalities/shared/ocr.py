"""Simulated errors of optical character recognition: confused, dropped, split and merged letters.

A channel of independent errors, for noisy text from clean text. The confusions are those that
readers of printed Latin script make most (Taghva et al. 1994; Kissos and Dershowitz 2016), not
measured rates.
"""

from __future__ import annotations

import numpy as np

LOOKALIKES = (
    "o0OQ", "l1I|i", "s5S", "b6h", "ec", "aou", "g9q", "tf", "uv", "nhr", "z2Z", "B8R", "D0O",
    "mn", "wv", "ij", "yv", "kx", "pq", "G6C", "EF", "PF", "MN", "UV", "HN", "A4", "TI7", "KX",
    "WV", "L1",
)  # fmt: skip
LIGATURES = {
    "rn": "m",
    "cl": "d",
    "vv": "w",
    "ri": "n",
    "li": "h",
    "m": "rn",
    "d": "cl",
    "w": "vv",
    "h": "li",
}
"""Pairs of letters that look like one, and back."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _confusion_table() -> dict[str, str]:
    confusions: dict[str, str] = {}
    for group in LOOKALIKES:
        for letter in group:
            confusions[letter] = confusions.get(letter, "") + group.replace(letter, "")
    return confusions


CONFUSIONS = _confusion_table()


def garble(text: str, rate: float, rng: np.random.Generator) -> str:
    """The text with each character in error with probability `rate`.

    Seven in ten errors put a look-alike (any letter where none is known) or, for letter pairs that
    look like one, merge or split them. Of the others half drop the character and half insert a
    blank before it. A text with characters other than blanks never becomes empty.

    Args:
        text: clean.
        rate: of errors.
        rng: the only source of randomness.

    Raises:
        ValueError: `rate` is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a chance, from 0 to 1, not {rate}")
    out, i = [], 0
    while i < len(text):
        if rng.random() >= rate:
            out.append(text[i])
        elif (kind := rng.random()) < 0.7:
            pair = text[i : i + 2]
            if pair in LIGATURES and rng.random() < 0.5:
                out.append(LIGATURES[pair])
                i += 1
            elif text[i] in LIGATURES and rng.random() < 0.3:
                out.append(LIGATURES[text[i]])
            else:
                candidates = CONFUSIONS.get(text[i], LETTERS)
                out.append(candidates[rng.integers(len(candidates))])
        elif kind < 0.85:
            out.append(" " + text[i])
        i += 1
    garbled = "".join(out).strip()
    return garbled or text
