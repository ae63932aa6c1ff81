"""A light decoder that predicts hidden tokens (MAE, arXiv:2111.06377, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core import Tokens, field_of
from amodal.nn.positions import sincos
from amodal.nn.transformer import Transformer


class MaskDecoder(nn.Module):
    """Encoded visible tokens and the positions of hidden ones -> a vector for each hidden token.

    Args:
        fields: Whose tokens may be hidden; each has a mask token of its own.
        width_in: Of the encoded tokens.
        width: Of the decoder.
        depth: Blocks.
        heads: Of attention.
    """

    def __init__(self, fields: Sequence[str], width_in: int, *, width: int, depth: int, heads: int):
        super().__init__()
        self.in_proj = nn.Linear(width_in, width)
        self.mask = nn.ParameterDict({f: nn.Parameter(torch.randn(width) * 0.02) for f in fields})
        self.field = nn.ParameterDict({f: nn.Parameter(torch.randn(width) * 0.02) for f in fields})
        self.trunk = Transformer(width, depth, heads)

    def forward(self, seen: Sequence[Tokens], hidden: Sequence[Tokens]) -> list[Tokens]:
        """Decode the hidden tokens of one batch.

        Args:
            seen: Encoded tokens (T, D).
            hidden: Hidden tokens, whose x is not read.

        Returns:
            `hidden`, in its order, with x (T, width).
        """
        marked = []
        for tokens in seen:
            marked.append(self._place(tokens, self.in_proj(tokens.x)))
        for tokens in hidden:
            token = self.mask[field_of(tokens.names[0])]
            marked.append(self._place(tokens, token.expand(len(tokens), -1)))
        # hidden and visible tokens of the same field get different names, to be split afterwards
        parts = [tokens.renamed(f"{i}") for i, tokens in enumerate(marked)]
        decoded = self.trunk(Tokens.join(parts))
        outputs = [decoded.only(f"{len(seen) + i}") for i in range(len(hidden))]
        return [tokens.with_x(out.x) for tokens, out in zip(hidden, outputs)]

    def _place(self, tokens: Tokens, x: Tensor) -> Tokens:
        field = self.field[field_of(tokens.names[0])]
        return tokens.with_x(x + sincos(tokens.position, x.shape[1]).to(x.dtype) + field)
