"""A light decoder that fills in hidden tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from amodal.core import Tokens, field_of
from amodal.nn.positions import sincos
from amodal.nn.transformer import Transformer


class MaskDecoder(nn.Module):
    """Seen tokens (encoded) and the places of hidden ones -> a vector for each hidden token (MAE,
    arXiv:2111.06377, 3).

    fields: names whose tokens may be hidden; each has its own learned mask token.
    """

    def __init__(self, fields: Sequence[str], width_in: int, *, width: int, depth: int, heads: int):
        super().__init__()
        self.enter = nn.Linear(width_in, width)
        self.mask = nn.ParameterDict({f: nn.Parameter(torch.randn(width) * 0.02) for f in fields})
        self.field = nn.ParameterDict({f: nn.Parameter(torch.randn(width) * 0.02) for f in fields})
        self.trunk = Transformer(width, depth, heads)

    def forward(self, seen: Sequence[Tokens], hidden: Sequence[Tokens]) -> list[Tokens]:
        """seen: encoded bags (T, D); hidden: bags of the hidden tokens, whose x is not read. All of
        one batch. Returns the decoded hidden bags, in their order, with x (T, width)."""
        marked = []
        for bag in seen:
            marked.append(self._place(bag, self.enter(bag.x)))
        for bag in hidden:
            token = self.mask[field_of(bag.names[0])]
            marked.append(self._place(bag, token.expand(len(bag), -1)))
        # a hidden bag and the seen bag of the same field have names of their own
        decoded = self.trunk(Tokens.join([bag.renamed(f"{i}") for i, bag in enumerate(marked)]))
        outputs = [decoded.only(f"{len(seen) + i}") for i in range(len(hidden))]
        return [bag.with_x(out.x) for bag, out in zip(hidden, outputs)]

    def _place(self, bag: Tokens, x) -> Tokens:
        return bag.with_x(
            x + sincos(bag.position, x.shape[1]).to(x.dtype) + self.field[field_of(bag.names[0])]
        )
