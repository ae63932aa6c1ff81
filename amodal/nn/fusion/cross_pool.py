"""A fused vector of a row: a CLS token and the tokens of one field read those of the others.

The multimodal interaction module of TIP, Du et al., ECCV 2024, arXiv:2407.07582, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core import Column, Ragged, Tokens, field_of
from amodal.core.host import host_copy
from amodal.core.part import Part
from amodal.nn.attention.cross import CrossEncoder, join_lists
from amodal.nn.pooling import Pool


class CrossPool(Part, Pool):
    """Cross-attention from one field to each other field; the mean of their CLS tokens is the
    fused vector.

    A row without the field is read by the CLS token alone, and a row without other fields reads
    nothing.

    Args:
        width: D.
        field: Whose tokens read.
        others: The fields that are read, one at a time.
        depth: Blocks.
        heads: Of each block.
        class_tokens: Whether the first token of each value is a class token, which is left out.
    """

    def __init__(
        self,
        width: int,
        *,
        field: str,
        others: Sequence[str],
        depth: int,
        heads: int,
        class_tokens: bool = False,
    ):
        super().__init__(width)
        self.field, self.others, self.class_tokens = field, tuple(others), class_tokens
        self.cross = CrossEncoder(width, depth, heads)
        self.cls = nn.Parameter(torch.randn(width) * 0.02)

    def read(self, tokens: Ragged, seen: Ragged) -> Ragged:
        """The CLS token and the tokens at the end. Either list may be empty."""
        first = Ragged(
            self.cls.to(tokens.flat.dtype).expand(len(tokens), -1), torch.ones_like(tokens.lengths)
        )
        read: Ragged = self.cross(join_lists([first, tokens]), seen)
        return read

    def vector(self, tokens: Ragged, seen: Ragged) -> Tensor:
        """The CLS token (N, D) at the end."""
        read = self.read(tokens, seen)
        return read.flat[read.starts()]

    def contextual(self, tokens: Ragged, seen: Ragged) -> Ragged:
        """The tokens at the end, without the CLS token."""
        read = self.read(tokens, seen)
        is_token = torch.ones(len(read.flat), dtype=torch.bool, device=read.flat.device)
        return Ragged(read.flat[is_token.index_fill(0, read.starts(), False)], tokens.lengths)

    def forward(self, tokens: Tokens) -> Column:
        """All tokens of the rows, x (T, D) -> (N, D), of the rows that have any of the fields."""
        words, *seen = (self.lists(tokens, f) for f in (self.field, *self.others))
        present = torch.stack([one.lengths > 0 for one in seen])
        cls = torch.stack([self.vector(words, one) for one in seen])
        # a row without any other field reads nothing, the same for each of them
        weight = (present | ~present.any(0)).to(cls.dtype).unsqueeze(2)
        rows = (present.any(0) | (words.lengths > 0)).nonzero().squeeze(1)
        return Column(((cls * weight).sum(0) / weight.sum(0))[rows], rows)

    def lists(self, tokens: Tokens, field: str) -> Ragged:
        """The tokens of one field as a list for each row of the batch, empty where it has none."""
        named = [n for n in tokens.names if field_of(n) == field]
        part = tokens.only(*named) if named else tokens.keep(torch.zeros(len(tokens)).bool())
        if self.class_tokens:
            part = part.keep(host_copy(part.within()) > 0)
        return Ragged(part.x, part.lengths())
