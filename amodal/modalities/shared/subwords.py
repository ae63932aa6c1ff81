"""Tokens that are learnt from text: byte-level byte-pair encoding.

Sennrich, Haddow and Birch, ACL 2016, arXiv:1508.07909, over bytes as in Radford et al. 2019. The
first 256 ids are the bytes, so there is no text without ids, and no merge at all is bytes. What has
been learnt is a text of merges, one a line, in the order in which they were found; it is all that a
tokenizer is built from.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from amodal.core import AmodalError

MAX_CHARACTERS = 10_000_000
"""Training text, at most: about 3 s, and the 8,192 ids of the default occur often enough in it that
more text would hardly change them."""
MIN_COUNT = 10
"""How often a pair must occur in the training text to become an id: the embedding of a rarer one
would hardly be trained. So the vocabulary of a small corpus is small."""

_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
"""Bytes that are written as the character of that number; the others follow from 256 on. It is the
convention of GPT-2, which `tokenizers` follows, so that merges have no white space in them."""
_CHARACTER = dict.fromkeys(range(256), "") | {b: chr(b) for b in _PRINTABLE}
_CHARACTER |= {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in _PRINTABLE)}
_BYTE = {character: byte for byte, character in _CHARACTER.items()}


@dataclass(frozen=True)
class Subwords:
    """A tokenizer, and what is known of its ids.

    Attributes:
        tokenizer: text -> ids, without padding and truncation.
        spaced: whether it puts a space before a text, so that a word is the same id wherever it is.
        bytes_of: id -> its bytes.
        first_byte: (ids,) uint8.
        begins_word: (ids,) bool, whether it begins with white space.
        breaks_line: (ids,) bool, whether a line feed is in it.
        blank: (ids,) bool, whether it is white space.
    """

    tokenizer: Tokenizer
    spaced: bool
    bytes_of: tuple[bytes, ...]
    first_byte: np.ndarray
    begins_word: np.ndarray
    breaks_line: np.ndarray
    blank: np.ndarray

    def encode(self, text: str) -> np.ndarray:
        """(length,) int32 ids of a text that has no white space at its beginning."""
        return np.array(self.tokenizer.encode(text).ids, dtype=np.int32)

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes of ids."""
        joined = b"".join(self.bytes_of[i] for i in ids.tolist())
        return joined.removeprefix(b" ") if self.spaced else joined

    def to_json(self) -> str:
        """The content of a tokenizer.json, which other libraries read."""
        return str(self.tokenizer.to_str(pretty=True))


def learn(texts: Iterable[str], *, characters: bool, size: int) -> str:
    """Learn the merges of texts.

    The same texts in the same order give the same merges, on every machine.

    Args:
        texts: of the training part; those past `MAX_CHARACTERS` are not read.
        characters: merge the bytes of one character only, so that an id is a character at most.
        size: ids at most.

    Returns:
        The merges, one a line; "" where no pair is frequent enough.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pieces(characters)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=MIN_COUNT,
        show_progress=False,
        initial_alphabet=sorted(_BYTE),
    )
    with _one_thread():
        tokenizer.train_from_iterator(_capped(texts), trainer)
    merges: list[list[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return "\n".join(" ".join(pair) for pair in merges)


@lru_cache(maxsize=64)
def load(merges: str, characters: bool) -> Subwords:
    """The tokenizer of merges that have been learnt.

    Raises:
        AmodalError: these are no merges.
    """
    ids = {_CHARACTER[byte]: byte for byte in range(256)}
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(merges.split("\n") if merges else (), 1):
        a, _, b = line.partition(" ")
        if a not in ids or b not in ids:
            raise AmodalError(
                f"text.merges, line {number}: {line[:60]!r} are not two earlier tokens with a "
                "space between; the vocabulary is damaged"
            )
        pairs.append((a, b))
        ids.setdefault(a + b, len(ids))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=pairs))
    tokenizer.pre_tokenizer, tokenizer.decoder = _pieces(characters), decoders.ByteLevel()
    bytes_of = tuple(bytes(_BYTE[c] for c in token) for token in ids)
    return Subwords(
        tokenizer=tokenizer,
        spaced=not characters,
        bytes_of=bytes_of,
        first_byte=np.array([token[0] for token in bytes_of], dtype=np.uint8),
        begins_word=np.array([token[:1].isspace() for token in bytes_of]),
        breaks_line=np.array([b"\n" in token for token in bytes_of]),
        blank=np.array([not token.strip() for token in bytes_of]),
    )


def count(merges: str) -> int:
    """Number of ids of a vocabulary."""
    return len(load(merges, True).bytes_of) if merges else 256


def _pieces(characters: bool) -> Any:
    """How a text is divided before pairs are merged: into words with the space before them, numbers
    and runs of signs; or into characters."""
    if not characters:
        return pre_tokenizers.ByteLevel(add_prefix_space=True)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _capped(texts: Iterable[str]) -> Iterator[str]:
    left = MAX_CHARACTERS
    for text in texts:
        if left <= 0:
            return
        yield text[:left]
        left -= len(text)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Train in this thread. The library's threads would not survive the fork of a loader's workers,
    of which it then warns in each of them."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
