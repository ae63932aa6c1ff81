"""How alike two texts are, letter by letter: the baselines of record linkage. Levenshtein 1966; Jaccard 1912."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edit_distances(query: str, keys: Sequence[str]) -> np.ndarray:
    """(len(keys),) int64: least number of characters to put in, take out or replace on the way from `query` to each key."""
    if not len(keys):
        return np.zeros(0, dtype=np.int64)
    texts = np.array(keys, dtype=np.str_)
    longest = max(texts.dtype.itemsize // 4, 1)
    letters = (
        texts.astype(f"U{longest}").view(np.uint32).reshape(len(keys), longest)
    )  # code points, zeros after the end
    steps = np.arange(longest + 1)
    row = np.tile(steps, (len(keys), 1))
    for i, letter in enumerate(query, 1):
        new = np.minimum(row[:, 1:] + 1, row[:, :-1] + (letters != ord(letter)))
        new = np.concatenate([np.full((len(keys), 1), i), new], 1)
        row = np.minimum.accumulate(new - steps, axis=1) + steps  # what is put in costs one each
    return row[np.arange(len(keys)), [len(k) for k in keys]]


def edit_similarity(query: str, keys: Sequence[str]) -> np.ndarray:
    """(len(keys),) float64: one minus the edit distance as a share of the longer of the two texts."""
    lengths = np.maximum(len(query), [len(k) for k in keys])
    return 1 - edit_distances(query, keys) / np.maximum(lengths, 1)


def ngrams(text: str, n: int = 3) -> set[str]:
    """Runs of n characters, with blanks before and after the text."""
    padded = f"{' ' * (n - 1)}{text}{' ' * (n - 1)}"
    return {padded[i : i + n] for i in range(len(padded) - n + 1)}


def jaccard(query: str, keys: Sequence[set[str]], n: int = 3) -> np.ndarray:
    """(len(keys),) float64: of the n-grams that either text has, the share that both have. keys: `ngrams` of each."""
    own = ngrams(query, n)
    return np.array([len(own & k) / len(own | k) for k in keys])
