"""Views of a text: slices, and words or characters left out, whatever its ids are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from amodal.core import Ragged
from amodal.core.host import host_copy
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared.subwords import Subwords
from amodal.modalities.shared.vocabulary import line_break_ids, word_start_ids

CROPS = {"weak": (0.8, 1.0), "strong": (0.5, 1.0), "local": (0.2, 0.5)}  # share of the length
DROP_RATE, REPLACE_RATE = 0.1, 0.02
"""Of a strong view: share of characters that are dropped, in spans of about a short word, and that
are replaced."""
EDIT_RATE = 0.1
"""Of a strong view by words: chance of each word to be left out, and pairs of words that change
places for each word there is."""

Words = tuple[Sequence[bytes | np.ndarray], Sequence[bytes]]
"""The words of a text, and what stands between them."""


class Bytes:
    """Ids that are bytes."""

    drop_span: int = 4
    """Parts that are dropped together."""
    crops_at_words: ClassVar[bool] = True

    def begins_character(self, ids: np.ndarray) -> np.ndarray:
        """(length,) bool: the first byte, and those that do not continue a character."""
        return np.concatenate([[True], (ids[1:] & 0xC0) != 0x80])

    def begins_word(self, ids: np.ndarray) -> np.ndarray:
        """(length,) bool: the first byte, and those after white space."""
        return np.concatenate([[True], (ids[:-1] == 32) | (ids[:-1] == 10)])

    def begins_part(self, ids: np.ndarray) -> np.ndarray:
        """(length,) bool: where that begins which is dropped and replaced as one."""
        return self.begins_character(ids)

    def breaks_line(self, ids: np.ndarray) -> np.ndarray:
        """(length,) bool."""
        out: np.ndarray = ids == 10
        return out

    def blank(self, ids: np.ndarray) -> np.ndarray:
        """(length,) bool: white space."""
        return np.isin(ids, (9, 13, 32))

    def words(self, ids: np.ndarray) -> Words:
        """The words, and the white space between them."""
        # split with a group keeps the white space: words at even places, gaps at odd ones
        parts = re.split(rb"(\s+)", self.to_bytes(ids))
        return parts[::2], parts[1::2]

    def join(self, words: Sequence[bytes | np.ndarray], gaps: Sequence[bytes]) -> np.ndarray:
        """The ids of words with gaps between them, of which there may be more than are needed."""
        spaced = b"".join(
            piece for word, gap in zip(words, [*gaps, b""]) for piece in (bytes(word), gap)
        )
        return self.of_bytes(spaced.strip() or spaced)

    def to_bytes(self, ids: np.ndarray) -> bytes:
        """The UTF-8 of ids."""
        return ids.astype(np.uint8).tobytes()

    def of_bytes(self, text: bytes) -> np.ndarray:
        """The ids of UTF-8."""
        return np.frombuffer(text, dtype=np.uint8).astype(np.int32)


class Characters(Bytes):
    """Ids of characters that have been learnt; the others are bytes."""

    def __init__(self, learnt: Subwords):
        self.learnt = learnt

    def begins_character(self, ids: np.ndarray) -> np.ndarray:
        return super().begins_character(self.learnt.first_byte[ids])

    def to_bytes(self, ids: np.ndarray) -> bytes:
        return self.learnt.decode(ids)

    def of_bytes(self, text: bytes) -> np.ndarray:
        return self.learnt.encode(text.decode("utf-8", "replace"))


class OfSubwords(Characters):
    """Ids of subwords, of which the first of a word has the space before it.

    So slices and words that are left out need no tokenizing again.
    """

    drop_span = 1

    def begins_word(self, ids: np.ndarray) -> np.ndarray:
        begins: np.ndarray = self.learnt.begins_word[ids]
        begins[:1] = True
        return begins

    def begins_part(self, ids: np.ndarray) -> np.ndarray:
        return self.begins_word(ids)

    def breaks_line(self, ids: np.ndarray) -> np.ndarray:
        out: np.ndarray = self.learnt.breaks_line[ids]
        return out

    def blank(self, ids: np.ndarray) -> np.ndarray:
        out: np.ndarray = self.learnt.blank[ids]
        return out

    def words(self, ids: np.ndarray) -> Words:
        return np.split(ids, np.flatnonzero(self.begins_word(ids))[1:]), ()

    def join(self, words: Sequence[bytes | np.ndarray], gaps: Sequence[bytes]) -> np.ndarray:
        return np.concatenate(words)


class Vocabulary(Bytes):
    """Ids of the tokenizer of another model, of which nothing is known but where lines end."""

    crops_at_words = False

    def __init__(self, path: str):
        self.path = path

    def begins_character(self, ids: np.ndarray) -> np.ndarray:
        return np.ones(len(ids), dtype=bool)

    def begins_word(self, ids: np.ndarray) -> np.ndarray:
        return np.isin(ids, word_start_ids(self.path))

    def breaks_line(self, ids: np.ndarray) -> np.ndarray:
        return np.isin(ids, line_break_ids(self.path))

    def blank(self, ids: np.ndarray) -> np.ndarray:
        return np.zeros(len(ids), dtype=bool)

    def words(self, ids: np.ndarray) -> Words:
        return np.split(ids, np.arange(1, len(ids))), ()

    def join(self, words: Sequence[bytes | np.ndarray], gaps: Sequence[bytes]) -> np.ndarray:
        return np.concatenate(words)


def augment(
    value: np.ndarray, ids_are: Bytes, view: str, rng: np.random.Generator, *, words: bool
) -> np.ndarray:
    """A view of a text, see `Text.augment`.

    Args:
        value: (length,) ids.
        ids_are: what is known of them.
        view: one of `amodal.modalities.VIEWS`.
        rng: the only source of randomness.
        words: whether a strong view edits words.
    """
    if view == "plain":
        return value
    if view == "strong" and words and (edited := edit_words(value, ids_are, rng)) is not None:
        return edited
    if view == "local" and len(found := lines(value, ids_are)) > 1:
        return value[found[rng.integers(len(found))]]
    out = crop(value, ids_are, *CROPS[view], rng)
    return corrupt(out, ids_are, rng) if view == "strong" else out


def lines(ids: np.ndarray, ids_are: Bytes) -> list[slice]:
    """The slice of each line that has more than white space, without its line break."""
    ends = np.append(np.flatnonzero(ids_are.breaks_line(ids)), len(ids))
    starts = np.append(0, ends[:-1] + 1)
    blank = ids_are.blank(ids)
    return [
        slice(a, b)
        for a, b in zip(starts.tolist(), ends.tolist())
        if b > a and not blank[a:b].all()
    ]


def edit_words(ids: np.ndarray, ids_are: Bytes, rng: np.random.Generator) -> np.ndarray | None:
    """Words dropped, and pairs of them swapped; None without two words.

    The parts of easy data augmentation that need no thesaurus (Wei and Zou, EMNLP 2019,
    arXiv:1901.11196).
    """
    words, gaps = ids_are.words(ids)
    if len(words) < 2:
        return None
    order = np.arange(len(words))
    for _ in range(max(1, round(EDIT_RATE * len(words)))):
        a, b = rng.choice(len(words), 2, replace=False)
        order[[a, b]] = order[[b, a]]
    keep = rng.random(len(words)) >= EDIT_RATE
    order = order[keep] if keep.any() else order[rng.integers(len(words))][None]
    return ids_are.join([words[i] for i in order.tolist()], gaps)


def corrupt(ids: np.ndarray, ids_are: Bytes, rng: np.random.Generator) -> np.ndarray:
    """Drop spans of parts (characters, words of subwords, ids of a vocabulary), and replace some by
    others of the text.

    These are of its language, unlike random ones.
    """
    starts = np.flatnonzero(ids_are.begins_part(ids))
    units, count, span = np.arange(len(starts)), len(starts), ids_are.drop_span
    units = np.where(rng.random(count) < REPLACE_RATE, rng.integers(count, size=count), units)
    dropped = np.convolve(rng.random(count) < DROP_RATE / span, np.ones(span))[:count] > 0
    units = units if dropped.all() else units[~dropped]
    # the ids of the units one after another: each one's start, counted on to its end
    lengths = np.diff(starts, append=len(ids))[units]
    corrupted: np.ndarray = ids[
        np.arange(lengths.sum()) + np.repeat(starts[units] - lengths.cumsum() + lengths, lengths)
    ]
    return corrupted


def crop(
    ids: np.ndarray, ids_are: Bytes, low: float, high: float, rng: np.random.Generator
) -> np.ndarray:
    """A random slice of `low` to `high` of the length, from word to word."""
    chosen = _ragged.random_crop(len(ids), low, high, rng)
    if not ids_are.crops_at_words:
        return ids[chosen]
    begins = np.append(np.flatnonzero(ids_are.begins_word(ids)), len(ids))
    if len(begins) == 2:  # one word, or a script without spaces
        begins = np.append(np.flatnonzero(ids_are.begins_character(ids)), len(ids))
    # both ends move to the nearest beginning
    first = np.abs(begins[:-1] - chosen.start).argmin()
    last = first + 1 + np.abs(begins[first + 1 :] - chosen.stop).argmin()
    return ids[begins[first] : begins[last]]


def word_numbers(texts: Ragged, ids_are: Bytes, patch: int) -> Tensor:
    """The number of the word that each token begins in, counted from 0 in its text.

    Args:
        texts: N lists of ids.
        ids_are: what is known of them.
        patch: ids of a token.

    Returns:
        (T,) int64, on the CPU.
    """
    flat, lengths = host_copy(texts.flat).numpy(), host_copy(texts.lengths).numpy()
    if not len(flat):
        return torch.zeros(0, dtype=torch.int64)
    begins, first = ids_are.begins_word(flat), lengths.cumsum() - lengths
    begins[first] = True
    number = begins.cumsum()
    counts = np.maximum(-(-lengths // patch), 1)
    within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    at = np.repeat(first, counts) + within * patch
    return torch.from_numpy(number[at] - np.repeat(number[first], counts))
