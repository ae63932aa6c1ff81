"""What optical character recognition does to a text: letters taken for their like, dropped, broken
and joined.

A channel of independent errors, for making noisy text from clean: the confusions are those that
readers of printed Latin script make most (Taghva et al. 1994; Kissos and Dershowitz 2016), not
measured rates.
"""

from __future__ import annotations

import numpy as np

ALIKE = (
    "o0OQ", "l1I|i", "s5S", "b6h", "ec", "aou", "g9q", "tf", "uv", "nhr", "z2Z", "B8R", "D0O", "mn", "wv", "ij", "yv", "kx", "pq",
    "G6C", "EF", "PF", "MN", "UV", "HN", "A4", "TI7", "KX", "WV", "L1",
)  # fmt: skip
JOINED = {
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


def _table() -> dict[str, str]:
    found: dict[str, str] = {}
    for group in ALIKE:
        for letter in group:
            found[letter] = found.get(letter, "") + group.replace(letter, "")
    return found


CONFUSED = _table()


def garble(text: str, rate: float, rng: np.random.Generator) -> str:
    """The text with each character in error with chance `rate`: seven in ten errors put a
    look-alike (any letter where none is known) or, for pairs that look like one letter, join or
    break them; of the others half drop the character and half put a blank before it.

    Never returns a text without characters other than blanks if it was given one. Raises ValueError
    unless 0 <= rate <= 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is a chance, from 0 to 1, not {rate}")
    out, i = [], 0
    while i < len(text):
        if rng.random() >= rate:
            out.append(text[i])
        elif (kind := rng.random()) < 0.7:
            pair = text[i : i + 2]
            if pair in JOINED and rng.random() < 0.5:
                out.append(JOINED[pair])
                i += 1
            elif text[i] in JOINED and rng.random() < 0.3:
                out.append(JOINED[text[i]])
            else:
                like = CONFUSED.get(text[i], LETTERS)
                out.append(like[rng.integers(len(like))])
        elif kind < 0.85:
            out.append(" " + text[i])
        i += 1
    garbled = "".join(out).strip()
    return garbled or text
