"""Biases: numbers that are added to the logits of attention, by where queries and keys are.

A bias is a plain callable on the positions of the tokens that are there. So what is hidden or
missing needs no care, and a larger picture needs nothing but a larger table. It is computed once a
forward pass, not once a layer, and has rows x H x queries x keys numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, field_of
from amodal.core.host import constant, host_copy, on_host, to_device
from amodal.modalities import Modality
from amodal.modalities.shared.protocols import InSpace, ResizesPatches
from amodal.nn.attention.relative import RelativeBias
from amodal.nn.attention.varlen import Group, Layout
from amodal.nn.pooling import Pool
from amodal.nn.positions import relative_side

if TYPE_CHECKING:
    from amodal.nn.attention.cross import PaddedLayout

    PaddedPlaces = tuple[PaddedLayout, Tensor, Tensor | None]

Bias = Callable[[Tensor, Tensor], Tensor]
"""(R, Q, P) positions of queries and (R, K, P) of keys of R rows -> (R, H or 1, Q, K), what is
added to the logits. -inf where a query must not attend to a key; each needs one that it may attend
to. It may be a module with parameters."""

NOWHERE = -1
"""The space of tokens that have no place, such as class tokens and prompts."""


class Alibi2d:
    """-slope_h |query - key|, with a slope for each head, in geometric order.

    Attention with linear biases (Press et al. 2022, arXiv:2108.12409) with the Euclidean distance,
    as CROMA has it of patches (Fuller et al. 2023, arXiv:2311.00566, section 3). All coordinates of
    a position count alike: rows and columns, and the first one, such as the index in a text, or the
    month of a raster, of which a picture has none.

    Args:
        heads: H.
    """

    def __init__(self, heads: int):
        self.slopes = alibi_slopes(heads)

    def __call__(self, query_RQP: Tensor, key_RKP: Tensor) -> Tensor:
        """See `Bias`."""
        pairs = zip(query_RQP.unbind(2), key_RKP.unbind(2))
        squares = [(q.unsqueeze(2) - k.unsqueeze(1)).square() for q, k in pairs]
        distance_RQK = torch.stack(squares).sum(0).sqrt()
        slope_H = constant(self.slopes, distance_RQK)
        return -slope_H.view(-1, 1, 1) * distance_RQK.unsqueeze(1)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """2^(-8 k / H) for k from 1 to H. Where H is no power of two, the slopes of the next smaller
    one, then every second one of the next larger (Press et al. 2022)."""
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * k / power) for k in range(1, power + 1)]
    between = [2 ** (-4 * k / power) for k in range(1, 2 * power + 1, 2)]
    return tuple(slopes + between[: heads - power])


def with_bias(
    layout: Layout, position_TP: Tensor, bias: Bias, space_T: Tensor | None = None
) -> Layout:
    """The layout with a bias of the places of its tokens.

    Args:
        layout: Without a cache or a prefix.
        position_TP: (T, P), in the order of the tokens.
        bias: Of the positions.
        space_T: (T,) int64, which coordinates a token's position is in: between tokens of
            different spaces, and of the space `NOWHERE`, the bias is 0. None for one space.

    Raises:
        ValueError: For a layout with a cache or a prefix, whose keys are at no place.
    """
    if layout.cache is not None or layout.prefix is not None:
        raise ValueError("a bias is of tokens with a place; a cache and a prefix have none")
    whole = (position_TP,) if space_T is None else (position_TP, space_T)
    placed = [layout.enter(t) for t in whole]
    queries = zip(*(torch.split(t, [g.rows * g.queries for g in layout.groups]) for t in placed))
    keys: Iterator[tuple[Tensor, ...]] = iter(())
    if layout.keys is not None:
        counts = [g.rows * g.keys for g in layout.groups if g.keys]
        keys = zip(*(torch.split(t.index_select(0, layout.keys), counts) for t in placed))
    groups = []
    for group, query in zip(layout.groups, queries):
        key = next(keys) if group.keys else query
        groups.append(_biased(group, query, key, bias, layout.causal and not group.keys))
    return replace(layout, groups=tuple(groups))


def _biased(
    group: Group, query: tuple[Tensor, ...], key: tuple[Tensor, ...], bias: Bias, causal: bool
) -> Group:
    (place_q, *space_q), (place_k, *space_k) = (
        [t.unflatten(0, (group.rows, -1)) for t in side] for side in (query, key)
    )
    made = bias(place_q, place_k)
    if space_q:
        made = between_places(made, space_q[0], space_k[0])
    hidden = None if group.mask is None else ~group.mask
    if causal:
        square = torch.ones(made.shape[2:], dtype=torch.bool, device=made.device)
        hidden = square.triu(1)
    made = made if hidden is None else made.masked_fill(hidden, -torch.inf)
    return replace(group, mask=None, bias=made)


def between_places(bias_RHQK: Tensor, query_space_RQ: Tensor, key_space_RK: Tensor) -> Tensor:
    """The bias, 0 between tokens of different spaces and of tokens that have no place."""
    query, key = query_space_RQ.unsqueeze(2), key_space_RK.unsqueeze(1)
    known_RQK = (query == key) & (query != NOWHERE)
    return bias_RHQK.where(known_RQK.unsqueeze(1), bias_RHQK.new_zeros(()))


@dataclass(frozen=True)
class PlaceBias:
    """A bias of the places of the tokens of fields.

    Fields on a plane share their rows and columns, measured in steps of the field whose tokens are
    closest on the ground. Tokens of other fields have distances from those of their own alone.

    Attributes:
        bias: Of positions. If it is a module, whoever makes it registers its parameters.
        steps: Field -> the length of a token's step on the plane, in those units.
        lengths: Field -> of one whose tokens lie in space, the length of a token, in the unit of
            its coordinates. It has a space of its own, with tokens as units.
        plane: Fields that share their rows and columns.
        pools: Field -> its pooling, whose own tokens are at no place.
    """

    bias: Bias
    steps: Mapping[str, float]
    plane: frozenset[str]
    pools: Mapping[str, nn.Module]
    lengths: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, layout: Layout, tokens: Tokens) -> Layout:
        """The layout of these tokens with the bias."""
        return with_bias(layout, self.centre(tokens), self.bias, self.space(tokens))

    def position(self, tokens: Tokens) -> Tensor:
        """(T, 3) in common units: the first corners of tokens on the plane."""
        units = [self.units(name) for name in tokens.names]
        if all(unit == (1.0, 1.0, 1.0) for unit in units):
            return tokens.position
        return tokens.position * constant(units, tokens.position)[tokens.source]

    def centre(self, tokens: Tokens) -> Tensor:
        """(T, 3) in common units: the centres of tokens on the plane.

        They are counted from the centre of the first token of step 1. So a coarse token is as far
        from each of the fine ones inside it, and distances are those of the mirrored values.
        """
        position = self.position(tokens)
        if position is tokens.position:
            return position
        shifts = [[(unit - 1) / 2 for unit in self.units(name)] for name in tokens.names]
        return position + constant(shifts, position)[tokens.source]

    def units(self, source: str) -> tuple[float, float, float]:
        """The coordinates of a source's tokens in common units, for a step along each of them."""
        if length := self.lengths.get(field_of(source)):
            return 1 / length, 1 / length, 1 / length
        step = self.steps.get(field_of(source), 1.0)
        return 1.0, step, step

    def number(self, field: str) -> int:
        """The number of a field's space: 0 for the plane."""
        if field in self.plane:
            return 0
        return 1 + list(self.steps).index(field) if field in self.steps else NOWHERE

    def space(self, tokens: Tokens) -> Tensor | None:
        """(T,) int64, see `with_bias`."""
        added = [name for name in tokens.names if self._adds(name)]
        numbers = {self.number(field_of(name)) for name in tokens.names}
        if not added and len(numbers) == 1 and NOWHERE not in numbers:
            return None
        space_T = host_copy(self.spaces(tokens))
        for name in added:
            pool = cast(Pool, self.pools[field_of(name)])
            space_T = space_T.where(_is_inner(tokens, name, pool), NOWHERE)
        return to_device(space_T, tokens.row.device)

    def spaces(self, tokens: Tokens) -> Tensor:
        """(T,) int64, the number of the space of each token's field."""
        numbers = [self.number(field_of(name)) for name in tokens.names]
        table = torch.tensor(numbers, dtype=torch.int64)
        return on_host(lambda source: table[source], tokens.source)

    def _adds(self, source: str) -> bool:
        """Whether the pooling of a source adds tokens."""
        pool = self.pools[field_of(source)] if field_of(source) in self.pools else None
        return isinstance(pool, Pool) and type(pool).strip is not Pool.strip


def _is_inner(tokens: Tokens, name: str, pool: Pool) -> Tensor:
    """(T,) bool, on the CPU: whether a token is of another source or no addition of the pooling."""
    numbered = replace(tokens.skeleton(), x=torch.arange(len(tokens)), position=_none(tokens))
    mine = numbered.only(name)
    inner = torch.ones(len(tokens), dtype=torch.bool)
    inner[mine.x] = False
    inner[pool.strip(mine).x] = True
    return inner


def _none(tokens: Tokens) -> Tensor:
    # positions may lie on a device; no pooling reads them to take its tokens off
    return torch.zeros(len(tokens), tokens.position.shape[1])


@dataclass(frozen=True)
class CrossBias:
    """A bias of cross-attention, by the places of queries and keys.

    Attributes:
        bias: Of positions.
        query_TP, key_SP: Positions of T queries and S keys, in the order of their lists.
        query_space_T, key_space_S: See `with_bias`; None for one space.
    """

    bias: Bias
    query_TP: Tensor
    key_SP: Tensor
    query_space_T: Tensor | None = None
    key_space_S: Tensor | None = None

    def tables(self, queries: PaddedLayout, keys: PaddedLayout) -> tuple[Tensor, Tensor]:
        """(N, H or 1, Q, Q) among the queries and (N, H or 1, Q, K) from them to the keys, -inf
        behind the end of a list."""
        query = queries, self.query_TP, self.query_space_T
        return self._table(query, query), self._table(query, (keys, self.key_SP, self.key_space_S))

    def _table(self, query: PaddedPlaces, key: PaddedPlaces) -> Tensor:
        made = self.bias(
            *(layout.pad(place.unsqueeze(1))[:, 0] for layout, place, _ in (query, key))
        )
        spaces = [
            layout.pad(space.view(-1, 1, 1))[:, 0, :, 0]
            for layout, _, space in (query, key)
            if space is not None
        ]
        if spaces:
            made = between_places(made, *spaces)
        mask = key[0].mask
        return made if mask is None else made.masked_fill(~mask, -torch.inf)


ALIBI = "alibi"
"""A kind of positions (`amodal.nn.positions`) that is a bias of attention, as `relative` is."""


def is_bias(positions: str) -> bool:
    """Whether a kind of positions is a bias of attention."""
    return positions == ALIBI or bool(relative_side(positions))


def place_bias(
    positions: str,
    fields: Mapping[str, Modality],
    heads: int,
    pools: Mapping[str, nn.Module],
    relative: RelativeBias | None = None,
) -> PlaceBias | None:
    """The bias of an encoder's trunks by its kind of positions; None for kinds without one.

    Args:
        positions: The kind.
        fields: Name -> modality.
        heads: H.
        pools: Field -> pooling.
        relative: The table of the kind `relative`.
    """
    if not is_bias(positions):
        return None
    bias, plane = Alibi2d(heads) if relative is None else relative, frozenset(plane_of(fields))
    lengths = {f: m.token_length for f, m in fields.items() if isinstance(m, InSpace)}
    return PlaceBias(bias, ground_steps(fields), plane, pools, lengths)


def plane_of(fields: Mapping[str, Modality]) -> list[str]:
    """The fields that share rows and columns: those on a grid."""
    return [f for f, m in fields.items() if getattr(m, "layout", "") == "grid"]


def ground_steps(fields: Mapping[str, Modality]) -> dict[str, float]:
    """Field -> its token's step over the shortest one whose size on the ground is known, see
    `simple_ratio`; 1 where it is not known."""
    # a field may be of anything that has a tokenizer
    ground = {f: float(getattr(m, "ground_step", 0.0)) for f, m in fields.items()}
    known = [step for step in ground.values() if step]
    return {f: simple_ratio(step / min(known)) if step else 1.0 for f, step in ground.items()}


def simple_ratio(ratio: float) -> float:
    """The first of the whole numbers, halves, thirds, … and eighths that is within 1 % of a ratio,
    or the ratio itself.

    Sizes on the ground are rounded, or measured in degrees, and grids of 10.3 and 20.59 m have the
    same corners.
    """
    near = (float(Fraction(ratio).limit_denominator(most)) for most in range(1, 9))
    return next((value for value in near if abs(value - ratio) <= 0.01 * ratio), ratio)


def refuse_drawn_patches(fields: Mapping[str, Modality], reader: str) -> None:
    """Raise AmodalError for fields whose patches have another side in each step of training, so
    that the step of a token is unknown.

    Args:
        fields: Name -> modality.
        reader: What measures steps, for the message.
    """
    for name, modality in fields.items():
        if isinstance(modality, ResizesPatches) and modality.patches:
            raise AmodalError(
                f"the field {name!r} draws the side of its patches in each step of training, "
                f"patches={list(modality.patches)}, and {reader} measures distances in steps of "
                "one side: leave the option patches of the field out"
            )
