"""Tokens of some fields read those of another one, by where they are.

The multimodal encoder of CROMA, Fuller, Millard and Green, NeurIPS 2023, arXiv:2311.00566, section
3: self-attention with 2D-ALiBi, cross-attention with X-ALiBi, and a perceptron.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from amodal.core import Column, Ragged, Tokens, field_of
from amodal.core.part import Part
from amodal.nn.attention.bias import Alibi2d, CrossBias, PlaceBias
from amodal.nn.attention.cross import CrossEncoder
from amodal.nn.common_dates import with_common_dates
from amodal.nn.pooling import Pool


class PlaceEncoder(Part, Pool):
    """Self-attention among the tokens of all fields but one, and attention to the tokens of that
    one.

    Where a row has no field but that one, its tokens are the queries, and read nothing else. As a
    pool of the tokens of all fields it gives their mean.

    Args:
        width: D.
        depth: Blocks.
        heads: Of attention.
        read: The field that is read.
        steps: Field -> length of a token's step, see `PlaceBias`.
        plane: Fields that lie on one plane.
        biased: Whether attention is biased by distances.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        read: str,
        steps: Mapping[str, float],
        plane: Sequence[str],
        biased: bool = True,
    ):
        super().__init__(width)
        self.read, self.biased = read, biased
        self.places = PlaceBias(Alibi2d(heads), dict(steps), frozenset(plane), {})
        self.cross = CrossEncoder(width, depth, heads)

    def forward(self, tokens: Tokens) -> Column:
        """Tokens of all fields, x (T, D) -> their mean (N, D), of the rows that have any."""
        return self.encode(with_common_dates(tokens, self.places.plane)).pool()

    def encode(self, tokens: Tokens) -> Tokens:
        """The queries after the last block and a norm.

        Args:
            tokens: Of all fields, x (T, D), with common dates.
        """
        skeleton = tokens.skeleton()
        numbers = [i for i, name in enumerate(tokens.names) if field_of(name) == self.read]
        is_read = torch.isin(skeleton.source, torch.tensor(numbers, dtype=torch.int64))
        others = torch.bincount(skeleton.row[~is_read], minlength=tokens.size)
        is_key = is_read & (others > 0)[skeleton.row]
        queries, keys = tokens.keep(~is_key), tokens.keep(is_key)
        lists = [Ragged(t.x, t.lengths()) for t in (queries, keys)]
        out = self.cross(*lists, bias=self._bias(queries, keys) if self.biased else None)
        return queries.with_x(out.flat)

    def _bias(self, queries: Tokens, keys: Tokens) -> CrossBias:
        places = [self.places.centre(t) for t in (queries, keys)]
        spaces = [self.places.spaces(t) for t in (queries, keys)]
        return CrossBias(self.places.bias, *places, *spaces)
