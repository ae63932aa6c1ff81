"""A light decoder that predicts hidden tokens (MAE, arXiv:2111.06377, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amodal.core import Tokens, field_of
from amodal.core.tokens import GROUP
from amodal.nn.positions import SinCos, embedded
from amodal.nn.transformer import Transformer


class MaskDecoder(nn.Module):
    """Encoded visible tokens and the positions of hidden ones -> a vector for each hidden token.

    Args:
        fields: Whose tokens may be hidden; each has a mask token of its own.
        width_in: Of the encoded tokens.
        width: Of the decoder.
        depth: Blocks.
        heads: Of attention.
        groups: Field -> how many groups its tokens are of (`amodal.core.tokens.GROUP`); each of
            these has a mask token of its own.
        position: Makes embeddings of positions; `SinCos` by default.
        trunk: The blocks, in place of `depth` ordinary ones.
    """

    def __init__(
        self,
        fields: Sequence[str],
        width_in: int,
        *,
        width: int,
        depth: int,
        heads: int,
        groups: Mapping[str, int] | None = None,
        position: nn.Module | None = None,
        trunk: Transformer | None = None,
    ):
        super().__init__()
        shape = {f: ((groups or {}).get(f, 0), width) for f in fields}
        self.in_proj = nn.Linear(width_in, width)
        self.mask = nn.ParameterDict(
            {f: nn.Parameter(torch.randn(s if s[0] else width) * 0.02) for f, s in shape.items()}
        )
        self.field = nn.ParameterDict({f: nn.Parameter(torch.randn(width) * 0.02) for f in fields})
        self.trunk = trunk or Transformer(width, depth, heads)
        self.position = position or SinCos(width)

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
            marked.append(self._place(tokens, self._mask_tokens(tokens)))
        # hidden and visible tokens of the same field get different names, to be split afterwards
        names = [f"{field_of(t.names[0])}:{i}" for i, t in enumerate(marked, 1)]
        decoded = self.trunk(Tokens.join([t.renamed(n) for t, n in zip(marked, names)]))
        outputs = [decoded.only(name) for name in names[len(seen) :]]
        return [tokens.with_x(out.x) for tokens, out in zip(hidden, outputs)]

    def _mask_tokens(self, tokens: Tokens) -> Tensor:
        mask: Tensor = self.mask[field_of(tokens.names[0])]
        if mask.dim() == 1:
            return mask.expand(len(tokens), -1)
        return mask[tokens.attributes[GROUP]]

    def _place(self, tokens: Tokens, x: Tensor) -> Tokens:
        field = self.field[field_of(tokens.names[0])]
        return tokens.with_x(x + embedded(self.position, tokens).to(x.dtype) + field)
