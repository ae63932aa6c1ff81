"""A predictor whose hidden tokens read the visible ones and not each other (Galileo,
arXiv:2502.09356; as CrossMAE, Fu et al. 2024, arXiv:2401.14391)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged, Tokens
from amodal.core.host import constant
from amodal.core.tokens import GROUP
from amodal.nn.attention.cross import CrossEncoder
from amodal.nn.positions import Ground


class CrossPredictor(nn.Module):
    """Encoded tokens and the places and groups of others -> a vector for each of the others.

    Args:
        groups: Field -> how many groups its tokens are of, at least 1. Each has an embedding.
        width: Of the encoded tokens and of what is predicted.
        hidden: Width of the predictor; 0 for `width`.
        depth: Blocks of cross-attention.
        heads: Of attention.

    Raises:
        AmodalError: For a width that the heads do not divide, and no depth.
    """

    def __init__(
        self, groups: Mapping[str, int], width: int, *, hidden: int = 0, depth: int, heads: int
    ):
        super().__init__()
        hidden = hidden or width
        if hidden < heads or hidden % heads:
            raise AmodalError(
                f"predictor_width is a multiple of the encoder's {heads} heads of attention, not "
                f"{hidden}"
            )
        if depth < 1:
            raise AmodalError(f"predictor_depth is 1 block or more, not {depth}")
        self.first, total = {}, 0
        for field, count in groups.items():
            self.first[field], total = total, total + count
        self.in_proj = nn.Linear(width, hidden)
        self.mask = nn.Parameter(torch.randn(hidden) * 0.02)
        self.group = nn.Parameter(torch.randn(total, hidden) * 0.02)
        self.position = Ground(hidden)
        self.reader = CrossEncoder(hidden, depth, heads, self_attention=False)
        self.out_proj = nn.Linear(hidden, width)

    def forward(self, seen: Tokens, wanted: Tokens) -> Tokens:
        """Predict tokens of a batch.

        Args:
            seen: Encoded tokens of all fields (T, D).
            wanted: Tokens whose x is not read.

        Returns:
            `wanted`, with x (t, D).
        """
        keys = self._place(seen, self.in_proj(seen.x))
        queries = self._place(wanted, self.mask.expand(len(wanted), -1))
        read = self.reader(Ragged(queries, wanted.lengths()), Ragged(keys, seen.lengths()))
        return wanted.with_x(self.out_proj(read.flat))

    def _place(self, tokens: Tokens, x: Tensor) -> Tensor:
        first = constant([self.first[name] for name in tokens.names], tokens.source)
        number = first[tokens.source]
        if GROUP in tokens.attributes:
            number = number + tokens.attributes[GROUP].clamp(min=0)
        place: Tensor = self.position(tokens.position, tokens.attributes)
        placed: Tensor = x + self.group[number] + place.to(x.dtype)
        return placed
