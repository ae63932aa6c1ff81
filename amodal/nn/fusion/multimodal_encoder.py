"""A transformer over the tokens of all fields of a row, with a class token of its own.

Singh et al., CVPR 2022, arXiv:2112.04482, section 3.1, "Multimodal encoder".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from amodal.core import POSITION_DIMS, Column, Ragged, Tokens, field_of
from amodal.core.part import Part
from amodal.nn.pooling import ClsPool, Pool
from amodal.nn.transformer import Transformer


class MultimodalEncoder(Part, Pool):
    """A linear map of the tokens of each field, a class token before them, and blocks.

    As a pool of the tokens of all fields it gives the class token.

    Args:
        fields: Whose tokens may come.
        width: D.
        depth: Blocks.
        heads: Of attention.
    """

    def __init__(self, fields: Sequence[str], width: int, depth: int, heads: int):
        super().__init__(width)
        self.projections = nn.ModuleDict({f: nn.Linear(width, width) for f in fields})
        self.cls, self.trunk = ClsPool(width), Transformer(width, depth, heads)

    def forward(self, tokens: Tokens) -> Column:
        """All tokens of the rows, x (T, D) -> class tokens (N, D), of the rows that have any."""
        vector: Column = self.cls(
            self.encode([tokens.only(name).renamed(name) for name in tokens.names])
        )
        return vector

    def read(self, lists: Mapping[str, Column], size: int) -> tuple[Column, dict[str, Tokens]]:
        """Read the tokens of some rows.

        Args:
            lists: Field -> N lists of tokens (length, D).
            size: B.

        Returns:
            The class token (N, D) of the rows that have any token; and field -> its tokens.
        """
        whole = self.encode([tokens_of(f, column, size) for f, column in lists.items()])
        inner = self.cls.strip(whole)
        return self.cls(whole), {f: inner.only(f).renamed(f) for f in lists}

    def encode(self, parts: Sequence[Tokens]) -> Tokens:
        """The tokens of fields behind a class token, at the end.

        Args:
            parts: The tokens of one source, x (T, D), at a time.
        """
        mapped = []
        for part in parts:
            x_TD: Tensor = self.projections[field_of(part.names[0])](part.x)
            # where tokens stand, the trunks of their fields have told them
            mapped.append(replace(part, x=x_TD, position=torch.zeros_like(part.position)))
        out: Tokens = self.trunk(self.cls.prepare(Tokens.join(mapped)))
        return out


def tokens_of(field: str, column: Column, size: int) -> Tokens:
    """Lists of tokens of a field as tokens, without positions."""
    assert isinstance(column.values, Ragged)
    position = column.flat.new_zeros(len(column.flat), POSITION_DIMS)
    return Tokens.of(column.flat, column.rows, column.values.lengths, position, field, size)
