"""A transformer over the tokens of all fields of a row, with a class token of its own.

Singh et al., CVPR 2022, arXiv:2112.04482, section 3.1, "Multimodal encoder".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from amodal.core import POSITION_DIMS, Column, Ragged, Tokens
from amodal.nn.pooling import ClsPool
from amodal.nn.transformer import Transformer


class MultimodalEncoder(nn.Module):
    """A linear map of the tokens of each field, a class token before them, and blocks.

    Args:
        fields: Whose tokens may come.
        width: D.
        depth: Blocks.
        heads: Of attention.
    """

    def __init__(self, fields: Sequence[str], width: int, depth: int, heads: int):
        super().__init__()
        self.projections = nn.ModuleDict({f: nn.Linear(width, width) for f in fields})
        self.cls, self.trunk = ClsPool(width), Transformer(width, depth, heads)

    def forward(self, lists: Mapping[str, Column], size: int) -> tuple[Column, dict[str, Tokens]]:
        """Read the tokens of some rows.

        Args:
            lists: Field -> N lists of tokens (length, D).
            size: B.

        Returns:
            The class token (N, D) of the rows that have any token; and field -> its tokens.
        """
        parts = [self._tokens(f, column, size) for f, column in lists.items()]
        whole = self.trunk(self.cls.prepare(Tokens.join(parts)))
        inner = self.cls.strip(whole)
        return self.cls(whole), {f: inner.only(f).renamed(f) for f in lists}

    def _tokens(self, field: str, column: Column, size: int) -> Tokens:
        assert isinstance(column.values, Ragged)
        x_TD: Tensor = self.projections[field](column.flat)
        # where tokens stand, the trunks of their fields have told them
        position = x_TD.new_zeros(len(x_TD), POSITION_DIMS)
        return Tokens.of(x_TD, column.rows, column.values.lengths, position, field, size)
