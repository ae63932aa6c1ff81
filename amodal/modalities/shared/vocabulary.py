"""Vocabularies of local Hugging Face tokenizers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from amodal.core import AmodalError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@cache
def line_break_ids(vocabulary: str) -> list[int]:
    """Ids that end a line; byte-level vocabularies write the line feed as U+010A."""
    return [
        i
        for token, i in load_vocabulary(vocabulary).get_vocab().items()
        if "\n" in token or "\u010a" in token
    ]


@cache
def load_vocabulary(vocabulary: str) -> Tokenizer:
    """A tokenizer without padding and truncation.

    Raises:
        AmodalError: there is none, it cannot be read, or the package `tokenizers` is missing.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise AmodalError(
            "a text vocabulary needs the package `tokenizers`: pip install 'amodal[language]'"
        ) from None
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
