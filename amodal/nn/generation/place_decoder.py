"""A light decoder with one token for each place, whichever fields have something there.

The decoder of CROMA, Fuller, Millard and Green, NeurIPS 2023, arXiv:2311.00566, section 3: what
stands at a place tells the patches of all sensors there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import Tokens
from amodal.nn.attention.bias import PlaceBias
from amodal.nn.positions import sincos
from amodal.nn.transformer import Transformer


class PlaceDecoder(nn.Module):
    """Encoded tokens, and a mask token wherever none of them is -> a vector for each place.

    Args:
        places: Where tokens are, in common units. Fields on its plane share their places, and
            tokens of other fields have places of their own.
        width_in: Of the encoded tokens.
        width: Of the decoder.
        depth: Blocks.
        heads: Of attention.
    """

    def __init__(self, places: PlaceBias, width_in: int, *, width: int, depth: int, heads: int):
        super().__init__()
        self.places = places
        self.in_proj, self.mask = (
            nn.Linear(width_in, width),
            nn.Parameter(torch.randn(width) * 0.02),
        )
        apart = [f for f in places.steps if f not in places.plane]
        self.field = nn.ParameterDict({f: nn.Parameter(torch.randn(width) * 0.02) for f in apart})
        self.trunk = Transformer(width, depth, heads)

    def forward(self, encoded: Tokens, tokens: Tokens) -> Tensor:
        """Decode one batch.

        Args:
            encoded: Some of the tokens, x (t, D).
            tokens: All tokens, whose x is not read.

        Returns:
            (T, width), for each of `tokens` what stands at its place.
        """
        row, space, position = (
            torch.cat([of(t) for t in (tokens, encoded)])
            for of in (lambda t: t.row, self.places.spaces, self.places.position)
        )
        # 3 steps of 7/3 are 7 of 1, but for the last bit
        rounded = torch.cat([position[:, :1], (position[:, 1:] * 1024).round()], 1)
        number, first_P = distinct(torch.stack([row, space], 1), rounded)
        number_T, at_t = number.split([len(tokens), len(encoded)])
        row, space, position = row[first_P], space[first_P], position[first_P]
        x_PD = self._content(encoded, at_t, len(first_P))
        x_PD = x_PD + sincos(position, x_PD.shape[1]).to(x_PD.dtype) + self._offset(x_PD)[space]
        whole = Tokens(x_PD, row, torch.zeros_like(row), position, ("place",), tokens.size)
        decoded: Tokens = self.trunk(whole)
        return decoded.x[number_T]

    def _content(self, encoded: Tokens, at_t: Tensor, count: int) -> Tensor:
        """(places, width): the mean of the encoded tokens there, or the mask token."""
        x_tD = self.in_proj(encoded.x)
        total_PD = x_tD.new_zeros(count, x_tD.shape[1]).index_add(0, at_t, x_tD)
        number_P = x_tD.new_zeros(count).index_add(0, at_t, torch.ones_like(x_tD[:, 0]))[:, None]
        mean_PD = total_PD / number_P.clamp(min=1)
        return torch.where(number_P > 0, mean_PD, self.mask.to(x_tD.dtype))

    def _offset(self, like: Tensor) -> Tensor:
        """(spaces, width): what says the field of tokens that are not on the plane."""
        rows = {self.places.number(f): self.field[f] for f in self.field}
        none = like.new_zeros(like.shape[1])
        return torch.stack([rows.get(i, none) for i in range(len(self.places.steps) + 1)]).to(like)


def distinct(number_TN: Tensor, position_TP: Tensor) -> tuple[Tensor, Tensor]:
    """The places of tokens, numbered in ascending order.

    Args:
        number_TN: Whole numbers >= 0 that come first in the order.
        position_TP: Coordinates.

    Returns:
        (T,) int64 the place of each token, and (places,) int64 the first token at each.
    """
    code = torch.zeros_like(number_TN[:, 0])
    # columns one by one: to sort numbers is many times as fast as to sort rows
    for column in (*number_TN.unbind(1), *position_TP.unbind(1)):
        values, at = torch.unique(column, return_inverse=True)
        code = code * len(values) + at
    codes, place_T = torch.unique(code, return_inverse=True)
    index_T = torch.arange(len(code), device=code.device)
    last = torch.full_like(codes, len(code))
    return place_T, last.scatter_reduce(0, place_T, index_T, "amin")
