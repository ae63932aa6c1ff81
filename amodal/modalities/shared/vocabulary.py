"""Vocabularies of local Hugging Face tokenizers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from amodal.core import AmodalError


@cache
def line_break_ids(vocabulary: str) -> list[int]:
    """Ids that end a line; byte-level vocabularies write the line feed as U+010A."""
    return [
        i
        for token, i in load_vocabulary(vocabulary).get_vocab().items()
        if "\n" in token or "\u010a" in token
    ]


@cache
def word_start_ids(vocabulary: str) -> list[int]:
    """Ids that begin a word, by the marks of WordPiece, byte-level and SentencePiece vocabularies;
    all ids of a vocabulary without such marks."""
    ids = load_vocabulary(vocabulary).get_vocab()
    if any(token.startswith("##") for token in ids):
        return [i for token, i in ids.items() if not token.startswith("##")]
    marked = [i for token, i in ids.items() if token.startswith(("\u0120", "\u2581"))]
    return marked or list(ids.values())


@cache
def load_vocabulary(vocabulary: str) -> Tokenizer:
    """A tokenizer without padding and truncation.

    Raises:
        AmodalError: there is none, or it cannot be read.
    """
    file = Path(vocabulary)
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise AmodalError(
            f"text.vocabulary: there is no file {file}. Expected a tokenizer.json, or a directory "
            "with one"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise AmodalError(f"text.vocabulary: {file} is not a tokenizer.json: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
