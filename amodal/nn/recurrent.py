"""A recurrent trunk: what reads a sequence from both ends, a token at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from amodal.core import AmodalError, Tokens


class Recurrent(nn.Module):
    """Tokens -> Tokens of the same width by bidirectional GRUs (Cho et al. 2014, arXiv:1406.1078), half of the width for each
    direction. Every row, and within a row every source, is a sequence of its own.

    Takes the place of `amodal.nn.transformer.Transformer`; raises AmodalError for an odd width.
    """

    def __init__(self, width: int, depth: int = 1):
        super().__init__()
        if width % 2:
            raise AmodalError(f"a bidirectional GRU shares its width between two directions; {width} is odd")
        self.gru = nn.GRU(width, width // 2, depth, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tokens, collect=None, routes=None) -> Tokens:
        if collect is not None:
            raise AmodalError("this method reads the blocks of a transformer, which a recurrent trunk has not")
        if not len(tokens):
            return tokens.with_x(tokens.x + 0 * sum(p.sum() for p in self.parameters()))
        lengths = _sequences(tokens)
        padded = pad_sequence(list(tokens.x.split(lengths.tolist())), batch_first=True)
        packed = pack_padded_sequence(padded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states_NLD, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        real = torch.arange(states_NLD.shape[1], device=lengths.device) < lengths.unsqueeze(1)
        return tokens.with_x(states_NLD[real])


def _sequences(tokens: Tokens) -> Tensor:
    """(N,) the lengths of the runs of one row and one source, which stand one after another."""
    key = tokens.row * len(tokens.names) + tokens.source
    return torch.unique_consecutive(key, return_counts=True)[1]
