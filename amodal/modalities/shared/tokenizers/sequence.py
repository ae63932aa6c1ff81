"""Tokens of `Sequence`: an embedding of each k-mer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import Column, Ragged, Tokens
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import ragged as _ragged

if TYPE_CHECKING:
    from amodal.modalities.sequence import Sequence


class SequenceTokenizer(nn.Module):
    """An embedding of each k-mer, and one of the unknown k-mer.

    Args:
        sequence: the modality.
        width: D of the tokens.
    """

    def __init__(self, sequence: Sequence, width: int):
        super().__init__()
        self.sequence = sequence
        self.embed = nn.Embedding(sequence.vocab_size + 1, width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Tokens of sequences, at the positions (index of the k-mer, 0, 0)."""
        codes, counts = self.sequence.kmers(cast(Ragged, column.values))
        position = nn.functional.pad(_ragged.index_in_value(counts).float()[:, None], (0, 2))
        return Tokens.of(self.embed(codes), column.rows, counts, position, name, size)


class SequenceGraph(nn.Module):
    """Dense form of `SequenceTokenizer`."""

    inputs: ClassVar[dict[str, str]] = {
        "symbols": "(N, length) int64: the index of each symbol in the field's alphabet, its "
        "length for an unknown one; anything past the end of a sequence",
        "lengths": "(N,) int64: symbols of each sequence, at least 1",
    }
    axes: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch", 1: "length"}, {0: "batch"})
    power: Tensor

    def __init__(self, tokenizer: SequenceTokenizer):
        super().__init__()
        self.sequence, self.embed = tokenizer.sequence, tokenizer.embed
        exponent = torch.arange(self.sequence.k - 1, -1, -1)
        self.register_buffer("power", len(self.sequence.alphabet) ** exponent)

    def forward(self, symbols: Tensor, lengths: Tensor) -> _dense.Tokenised:
        unknown, k = len(self.sequence.alphabet), self.sequence.k
        symbols = torch.where(_dense.length_mask(symbols, lengths), symbols, unknown)
        symbols_NLk = _dense.patchify(symbols, k, unknown)
        code_NL = (symbols_NLk.long() * self.power).sum(2)
        has_unknown = (symbols_NLk == unknown).any(2)
        code_NL = code_NL.masked_fill(has_unknown, self.sequence.vocab_size)
        mask_NL = _dense.patch_mask(symbols_NLk, lengths, k)
        return self.embed(code_NL), _dense.positions_1d(symbols_NLk), mask_NL

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """n random values of up to `length` symbols, some unknown."""
        unknown = len(self.sequence.alphabet)
        return [
            np.where(rng.random(k) < 0.1, unknown, rng.integers(0, unknown, k))
            for k in _dense.example_lengths(n, length)
        ]
