"""The cells of channels and places of each row, and the class tokens of both.

A channel is a band of a field, known by its wavelength, or a field without bands. A place is where
tokens lie: on the ground, which all fields share whose tokens have a size in metres, or in the
space of their own field. A grid has the cells of which there are tokens, and no others.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from amodal.core import Tokens, field_of, name_code
from amodal.core.embeddings import FUSED
from amodal.core.host import host_copy, to_device
from amodal.core.tokens import METRES, WAVELENGTH
from amodal.masking.grid import float_bits
from amodal.masking.hashing import hash_bits
from amodal.nn.attention.bias import with_bias
from amodal.nn.attention.varlen import Layout, layout_of

UNIT = 16.0
"""Metres that count as one step: of a pixel, in the authors' program, whose patches have 16."""
METRES_UNKNOWN = 160.0
"""Of the side of a token whose size is not known: 16 pixels of 10 m."""


@dataclass(frozen=True)
class Codes:
    """Of each token, on the CPU: numbers that are the same in every batch.

    Attributes:
        channel_T, place_T, ground_T: (T,) int64.
        time_T: (T,) its first coordinate where that counts, else 0.
        metres_T: (T,) of its side, 0 where not known.
        wavelength_T: (T,) nanometres, 0 where it has none.
    """

    channel_T: Tensor
    place_T: Tensor
    ground_T: Tensor
    time_T: Tensor
    metres_T: Tensor
    wavelength_T: Tensor


def codes_of(tokens: Tokens, dateless: Collection[str] = ()) -> Codes:
    """The codes of tokens.

    Args:
        tokens: Of any sources.
        dateless: Fields whose first coordinate does not count, as they have one date at most.
    """
    position, source = host_copy(tokens.position), host_copy(tokens.source)
    names = torch.tensor([name_code(name) for name in tokens.names], dtype=torch.int64)[source]
    fixed = torch.tensor([field_of(name) in dateless for name in tokens.names])[source]

    def known(name: str) -> Tensor:
        found = tokens.attributes.get(name)
        none = torch.zeros(len(tokens), dtype=position.dtype)
        return none if found is None else host_copy(found).nan_to_num()

    metres, wavelength = known(METRES), known(WAVELENGTH)
    time = position[:, 0].where(~fixed, position.new_zeros(()))
    ground = names.where(metres == 0, torch.zeros_like(names))
    bits = [float_bits(t) for t in (metres, time, position[:, 1], position[:, 2])]
    channel = hash_bits(names, float_bits(wavelength))
    return Codes(channel, hash_bits(ground, *bits), ground, time, metres, wavelength)


@dataclass(frozen=True)
class Axis:
    """The lines of a grid along one of its axes, in the order of rows; the class line of a row
    comes first.

    Attributes:
        row_S: (S,) int64, on the CPU.
        first_S: (S,) int64, on the CPU: a token of the line; -1 for class lines.
        layout: Lines of a row attend to each other.
    """

    row_S: Tensor
    first_S: Tensor
    layout: Layout

    @property
    def real_S(self) -> Tensor:
        """(S,) bool, on the CPU: which are no class lines."""
        return self.first_S >= 0


@dataclass(frozen=True)
class ChannelGrid:
    """Where the cells of a batch are.

    The G cells are those of the T tokens in their order; the class tokens of the places (the class
    channel), in the order of the places; those of the channels (the class place); and one of each
    row that has a token.

    Attributes:
        tokens: Of all sources; x is not read.
        codes: Theirs.
        channels, places: The lines.
        channel_G, place_G: (G,) int64, the lines of each cell, on the device of the tokens.
        row_G: (G,) int64, its row, there.
    """

    tokens: Tokens
    codes: Codes
    channels: Axis
    places: Axis
    channel_G: Tensor
    place_G: Tensor
    row_G: Tensor

    @cached_property
    def counts(self) -> list[int]:
        """How many cells are of tokens, class tokens of places and of channels, and of rows."""
        kinds = [int(axis.real_S.sum()) for axis in (self.places, self.channels)]
        return [len(self.tokens), *kinds, len(self.row_G) - len(self.tokens) - sum(kinds)]

    @cached_property
    def class_cells(self) -> tuple[Tensor, Tensor]:
        """(C,) and (N,) int64, on the device: where the class token of each channel, and of each
        place, is among the cells."""
        tokens, places, channels, _ = self.counts
        begin = tokens, tokens + places, tokens + places + channels
        device = self.row_G.device
        return (
            to_device(_placed(self.channels, begin[1], begin[2]), device),
            to_device(_placed(self.places, begin[0], begin[2]), device),
        )

    def start(self, x_TD: Tensor, cls: Tensor, channel_cls: Tensor, spatial_cls: Tensor) -> Tensor:
        """(G, D): tokens (T, D) and learned class tokens (D,), of rows, of places and of
        channels."""
        _, places, channels, rows = self.counts
        kinds = ((channel_cls, places), (spatial_cls, channels), (cls, rows))
        return torch.cat([x_TD, *(t.to(x_TD.dtype).expand(n, -1) for t, n in kinds)])

    def embedded(self, like: Tensor) -> Tensor:
        """(G, D) the embedding of place and wavelength of each cell: the mean of both, each 0 in
        class lines.

        Args:
            like: (…, D), whose width, type and device it has.
        """
        width, axes = like.shape[-1], (self.channels, self.places)
        made = (self._wavelengths(width), self._positions(width))
        whole = []
        for axis, real, line_G in zip(axes, made, (self.channel_G, self.place_G)):
            lines = real.new_zeros(len(axis.row_S), width)
            lines[axis.real_S] = real
            whole.append(lines.to(like.device, like.dtype)[line_G])
        return (whole[0] + whole[1]) / 2

    def _wavelengths(self, width: int) -> Tensor:
        nanometres = self.codes.wavelength_T[self.channels.first_S[self.channels.real_S]]
        made = sines(nanometres, width)
        return made * (nanometres > 0).to(made.dtype).unsqueeze(1)

    def _positions(self, width: int) -> Tensor:
        first = self.places.first_S[self.places.real_S]
        y, x = host_copy(self.tokens.position)[first, 1:].unbind(1)
        metres, time = self.codes.metres_T[first], self.codes.time_T[first]
        step = metres.where(metres > 0, metres.new_tensor(METRES_UNKNOWN)) / UNIT
        # columns come first, as in the authors' program; nothing is added at time 0
        plane = torch.cat([sines(x * step, width // 2), sines(y * step, width // 2)], 1)
        return plane + sines(time, width) - sines(torch.zeros_like(time), width)


def sines(value_S: Tensor, width: int) -> Tensor:
    """(S, D): sines, then cosines, of numbers (S,) at D / 2 rates from 1 to 1e-4."""
    count = width // 2
    rate = 1e4 ** -(torch.arange(count, dtype=value_S.dtype) / count)
    angle = value_S.unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], 1)


def grid_of(tokens: Tokens, dateless: Collection[str] = (), radius: float = 0.0) -> ChannelGrid:
    """The grid of tokens.

    Args:
        tokens: Of all sources, in the order of rows.
        dateless: See `codes_of`.
        radius: Metres between the centres of places on the ground that attend to each other; 0 for
            any.
    """
    codes, row_T, device = codes_of(tokens, dateless), host_copy(tokens.row), tokens.row.device
    channels, channel_T = _axis(tokens, row_T, codes.channel_T)
    places, place_T = _axis(tokens, row_T, codes.place_T)
    if radius:
        places = _within(places, tokens, codes, radius)
    lines = [(channel_T, place_T)]
    # the class channel at each place, the class place of each channel, and both of each row
    class_of = [torch.where(~axis.real_S)[0] for axis in (channels, places)]
    number = torch.zeros(tokens.size, dtype=torch.int64)
    number[channels.row_S[class_of[0]]] = torch.arange(len(class_of[0]))
    real_place, real_channel = (torch.where(axis.real_S)[0] for axis in (places, channels))
    lines += [
        (class_of[0][number[places.row_S[real_place]]], real_place),
        (real_channel, class_of[1][number[channels.row_S[real_channel]]]),
        (class_of[0], class_of[1]),
    ]
    channel_G, place_G = (torch.cat(parts) for parts in zip(*lines))
    row_G = channels.row_S[channel_G]
    return ChannelGrid(
        replace(tokens, x=tokens.x[:, :0]),
        codes,
        channels,
        places,
        *(to_device(t, device) for t in (channel_G, place_G, row_G)),
    )


def _axis(tokens: Tokens, row_T: Tensor, code_T: Tensor) -> tuple[Axis, Tensor]:
    """The lines of tokens by a code, and (T,) the line of each token."""
    codes, number_T = torch.unique(code_T, return_inverse=True)
    pairs, line_T = torch.unique(row_T * max(len(codes), 1) + number_T, return_inverse=True)
    row_L = torch.div(pairs, max(len(codes), 1), rounding_mode="floor")
    first_L = torch.full_like(row_L, len(row_T)).scatter_reduce(
        0, line_T, torch.arange(len(row_T)), "amin"
    )
    rows, order_L = torch.unique(row_L, return_inverse=True)
    # as many class lines stand before a line as its row has a number among those with tokens
    place_L = torch.arange(len(row_L)) + order_L + 1
    row_S = torch.empty(len(row_L) + len(rows), dtype=torch.int64)
    first_S = torch.full_like(row_S, -1)
    row_S[place_L], first_S[place_L] = row_L, first_L
    row_S[first_S < 0] = rows
    lines = _lines(tokens, row_S, torch.zeros(len(row_S), 1))
    return Axis(row_S, first_S, layout_of(lines)), place_L[line_T]


def _lines(tokens: Tokens, row_S: Tensor, position_SP: Tensor) -> Tokens:
    """Lines as tokens, for layouts."""
    device = tokens.row.device
    row, source = (to_device(t, device) for t in (row_S, torch.zeros_like(row_S)))
    place = to_device(position_SP, device)
    return Tokens(place[:, :0], row, source, place, (FUSED,), tokens.size)


def _within(places: Axis, tokens: Tokens, codes: Codes, radius: float) -> Axis:
    """The places, which attend to those within a radius, and to all that are at no distance."""
    first = places.first_S.clamp(min=0)
    metres = codes.metres_T[first].double()
    centre = (host_copy(tokens.position)[first, 1:].double() + 0.5) * metres.unsqueeze(1)
    on_ground = places.real_S & (metres > 0)
    where = torch.cat([on_ground.double().unsqueeze(1), centre], 1)
    far = _farthest(places.row_S[on_ground], centre[on_ground], tokens.size)
    if not (far > radius).any():
        return places

    def bias(query_RQP: Tensor, key_RKP: Tensor) -> Tensor:
        query, key = query_RQP.unsqueeze(2), key_RKP.unsqueeze(1)
        square_RQK = (query[..., 1:] - key[..., 1:]).square().sum(3)
        far_RQK = (square_RQK > radius**2) & (query[..., 0] * key[..., 0] > 0)
        none = torch.zeros(square_RQK.shape, device=square_RQK.device)
        return none.masked_fill(far_RQK, -torch.inf).unsqueeze(1)

    return replace(
        places, layout=with_bias(places.layout, to_device(where, tokens.row.device), bias)
    )


def _farthest(row_S: Tensor, centre_S2: Tensor, size: int) -> Tensor:
    """(B,) the diagonal of the box about the places of each row: no two are farther apart."""
    index, nothing = row_S.unsqueeze(1).expand(-1, 2), centre_S2.new_zeros(size, 2)
    high, low = (
        nothing.scatter_reduce(0, index, centre_S2, how, include_self=False)
        for how in ("amax", "amin")
    )
    diagonal: Tensor = (high - low).norm(dim=1)
    return diagonal


def _placed(axis: Axis, begin: int, rows: int) -> Tensor:
    """(S,) the cell of the class token of each line: those of real lines from `begin` on, of class
    lines from `rows` on."""
    real = axis.real_S
    at = torch.empty_like(axis.row_S)
    at[real] = begin + torch.arange(int(real.sum()))
    at[~real] = rows + torch.arange(int((~real).sum()))
    return at
