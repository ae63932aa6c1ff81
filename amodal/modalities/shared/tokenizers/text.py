"""Tokens of `Text`: an embedding of each id."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import Column, Ragged, Tokens
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import ragged as _ragged

if TYPE_CHECKING:
    from amodal.modalities.text import Text


class TextTokenizer(nn.Module):
    """An embedding of each id; ids of one token are concatenated and projected.

    Args:
        text: the modality.
        width: D of the tokens.
    """

    def __init__(self, text: Text, width: int):
        super().__init__()
        self.patch, self.pad_id = text.patch, text.vocab_size
        id_width = width if text.patch == 1 else max(16, width // text.patch)
        self.embed = nn.Embedding(self.pad_id + 1, id_width, padding_idx=self.pad_id)
        single = text.patch == 1
        self.project = nn.Identity() if single else nn.Linear(text.patch * id_width, width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Tokens of texts, at the positions (index of the token, 0, 0)."""
        ids, counts = _ragged.patches(cast(Ragged, column.values), self.patch, self.pad_id)
        position = nn.functional.pad(_ragged.index_in_value(counts).float()[:, None], (0, 2))
        x_TD = self.project(self.embed(ids).flatten(1))
        return Tokens.of(x_TD, column.rows, counts, position, name, size)


class TextGraph(nn.Module):
    """Dense form of `TextTokenizer`."""

    inputs: ClassVar[dict[str, str]] = {
        "ids": "(N, length) int64: ids of tokenizer-FIELD.json where there is one, else UTF-8 "
        "bytes or ids of the field's vocabulary; anything past the end of a text",
        "lengths": "(N,) int64: ids in each text, at least 1",
    }
    axes: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch", 1: "length"}, {0: "batch"})

    def __init__(self, tokenizer: TextTokenizer):
        super().__init__()
        self.patch, self.pad_id = tokenizer.patch, tokenizer.pad_id
        self.embed, self.project = tokenizer.embed, tokenizer.project

    def forward(self, ids: Tensor, lengths: Tensor) -> _dense.Tokenised:
        ids = torch.where(_dense.length_mask(ids, lengths), ids, self.pad_id)
        ids_NLp = _dense.patchify(ids, self.patch, self.pad_id)
        x_NLD = self.project(self.embed(ids_NLp).flatten(2))
        mask_NL = _dense.patch_mask(ids_NLp, lengths, self.patch)
        return x_NLD, _dense.positions_1d(ids_NLp), mask_NL

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """n random values of up to `length` ids."""
        return [rng.integers(0, self.pad_id, k) for k in _dense.example_lengths(n, length)]
