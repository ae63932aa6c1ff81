"""What a mask hides as one: a token, or a whole word."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from amodal.core import Tokens, field_of
from amodal.modalities.shared.learnt import HasWords
from amodal.nn.encoder import Encoder


def units(encoder: Encoder, tokens: Tokens, values: Any, *, whole_words: bool) -> Tensor:
    """(T,) int64 number of the unit of each token, in its row.

    Args:
        encoder: Of the fields.
        tokens: Of one source.
        values: That they were made from, as in a batch.
        whole_words: A unit is a word, where tokens are parts of words; else each token is one.
    """
    modality = encoder.fields[field_of(tokens.names[0])]
    if whole_words and isinstance(modality, HasWords):
        return modality.words(values).to(tokens.row.device)
    return tokens.within()
