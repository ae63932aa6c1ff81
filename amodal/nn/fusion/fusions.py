"""From the tokens of several sources to one vector a row: self-attention over all of them, and four
plainer ways under the same interface.

Ma et al., CVPR 2023 workshops, arXiv:2304.06370, section 3; squeeze and excitation: Hu et al. 2018,
arXiv:1709.01507; attentional feature fusion: Dai et al. 2021, arXiv:2009.14082. A fusion takes
`bags` (field -> tokens of width D, any of them absent) and gives (N, D) of the rows that have any
token. `seeds` (B,) are given while training, for what is random about a row; None otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Embeddings, Tokens, name_code, unknown
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.nn.attention.varlen import layout_of
from amodal.nn.dropout import seeded_dropout
from amodal.nn.fusion.late_fusion import side_by_side
from amodal.nn.positions import Learned
from amodal.nn.transformer import Block

Bags = dict[str, Tokens]


def all_of(bags: Bags, fields: Sequence[str]) -> Bags:
    """The bags in the order of `fields`, with an empty one for a field that there is none of."""
    if strange := [s for s in bags if s not in fields]:
        raise unknown("field of this fusion", strange[0], fields)
    empty = next(iter(bags.values())).at(
        torch.zeros(0, dtype=torch.int64, device=next(iter(bags.values())).row.device)
    )
    return {s: bags.get(s, empty) for s in fields}


def summed(x_TD: Tensor, bag: Tokens) -> Tensor:
    """(B, D): the sum of each row's tokens."""
    return x_TD.new_zeros(bag.size, x_TD.shape[1]).index_add(0, bag.row, x_TD)


def squeeze(width: int, ratio: float) -> nn.Sequential:
    """The way down and up again that channels are weighed by, without batch norm, which would
    couple rows."""
    inner = max(1, int(width / ratio))
    return nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))


class SumFusion(nn.Module):
    """The sum over sources of their mean tokens. (A sum of feature maps, averaged over places, is
    just that.)"""

    def __init__(self, fields: Sequence[str], width: int):
        super().__init__()
        self.fields, self.width = tuple(fields), width

    def forward(self, bags: Bags, seeds: Tensor | None = None) -> Column:
        means = {s: bag.pool() for s, bag in all_of(bags, self.fields).items()}
        absent = {s: next(iter(means.values())).values.new_zeros(self.width) for s in self.fields}
        together = side_by_side(absent, Embeddings(means, next(iter(bags.values())).size))
        return Column(self.mix(together.values, bags, together.rows), together.rows)

    def mix(self, means_NX: Tensor, bags: Bags, rows: Tensor) -> Tensor:
        """(N, fields x D), the mean tokens side by side with zero for a field that a row lacks ->
        (N, D)."""
        return means_NX.unflatten(1, (len(self.fields), self.width)).sum(1)


class ConvFusion(SumFusion):
    """Feature maps side by side through a convolution of size 1, averaged over places: a linear map
    of mean tokens side by side."""

    def __init__(self, fields: Sequence[str], width: int):
        super().__init__(fields, width)
        self.linear = nn.Linear(width * len(fields), width)

    def mix(self, means_NX: Tensor, bags: Bags, rows: Tensor) -> Tensor:
        return self.linear(means_NX)


class SeFusion(SumFusion):
    """Every channel of every source is weighed from the mean tokens of all, then they are added."""

    def __init__(self, fields: Sequence[str], width: int, ratio: float = 4.0):
        super().__init__(fields, width)
        self.weigh = squeeze(width * len(fields), ratio)

    def mix(self, means_NX: Tensor, bags: Bags, rows: Tensor) -> Tensor:
        return super().mix(means_NX * self.weigh(means_NX).sigmoid(), bags, rows)


class AffFusion(SumFusion):
    """As `SeFusion`, but a token's weights also come from what all sources have at its place. The
    place of a token among those of another source is told by its order: token i of n meets token
    floor((i + 1/2) m / n) of m, the same one if there are as many."""

    def __init__(self, fields: Sequence[str], width: int, ratio: float = 4.0):
        super().__init__(fields, width)
        self.whole, self.local = (squeeze(width * len(fields), ratio) for _ in range(2))

    def mix(self, means_NX: Tensor, bags: Bags, rows: Tensor) -> Tensor:
        bags = all_of(bags, self.fields)
        size, total = next(iter(bags.values())).size, means_NX.new_zeros(len(rows), self.width)
        whole = means_NX.new_zeros(size, means_NX.shape[1]).index_copy(
            0, rows, self.whole(means_NX)
        )
        for number, bag in enumerate(bags.values()):
            here = torch.cat([self.opposite(bag, other) for other in bags.values()], 1)
            weight = (
                (self.local(here) + whole[bag.row])
                .unflatten(1, (len(bags), -1))[:, number]
                .sigmoid()
            )
            count = bag.lengths()[rows].clamp(min=1).unsqueeze(1)
            total = total + summed(weight * bag.x, bag)[rows] / count
        return total

    @staticmethod
    def opposite(bag: Tokens, other: Tokens) -> Tensor:
        """(T, D): for each token the other source's at its place, zero in rows that lack it."""
        mine, theirs = bag.lengths()[bag.row], other.lengths()
        place = ((2 * bag.within() + 1) * theirs[bag.row]) // (2 * mine)
        at, there = (theirs.cumsum(0) - theirs)[bag.row] + place, theirs[bag.row] > 0
        padded = torch.cat([other.x, other.x.new_zeros(1, other.x.shape[1])])
        return padded[torch.where(there, at, len(other))]


class AttentionFusion(nn.Module):
    """Tokens of all sources, with learned positions of each source, through blocks of
    self-attention, and added up. Those that are absent are no tokens, so any subset may be given.

    ratio: share of a row's tokens that is left out while training; dropout: of what each half of a
    block adds, then too; groups: lists of fields that are read apart first, by blocks of their own,
    and then together.
    """

    def __init__(
        self,
        fields: Sequence[str],
        width: int,
        *,
        heads: int = 8,
        depth: int = 2,
        ratio: float = 0.5,
        dropout: float = 0.5,
        groups: Sequence[Sequence[str]] = (),
    ):
        super().__init__()
        if groups and sorted(s for group in groups for s in group) != sorted(fields):
            raise AmodalError(
                f"groups must divide the fields {', '.join(fields)}, each in one group, not {groups}"
            )
        if width % heads or not 0 <= ratio < 1:
            raise AmodalError(
                f"heads divide the width and ratio is below 1, but got {heads}, {width} and {ratio}"
            )
        self.fields, self.ratio, self.dropout = tuple(fields), ratio, dropout
        self.groups = [list(g) for g in groups] or [list(fields)]
        self.positions = nn.ModuleDict({s: Learned(width) for s in fields})
        self.source = nn.ParameterDict({s: nn.Parameter(torch.randn(width) * 0.02) for s in fields})
        chains = len(self.groups) + (len(self.groups) > 1)
        self.chains = nn.ModuleList(
            nn.ModuleList(Block(width, heads, 2.0) for _ in range(depth)) for _ in range(chains)
        )

    def forward(self, bags: Bags, seeds: Tensor | None = None) -> Column:
        bags = all_of(bags, self.fields)
        placed = {s: self.place(bag, s) for s, bag in bags.items()}
        sets = [Tokens.join([placed[s] for s in group]) for group in self.groups]
        if seeds is not None:
            sets = [self.some(bag, seeds, number) for number, bag in enumerate(sets)]
        read = [
            self.read(chain, bag, seeds, n) for n, (chain, bag) in enumerate(zip(self.chains, sets))
        ]
        whole = read[0]
        if len(read) > 1:
            whole = self.read(self.chains[-1], Tokens.join(read), seeds, len(read))
        rows = whole.rows()
        return Column(summed(whole.x, whole)[rows], rows)

    def place(self, bag: Tokens, field: str) -> Tokens:
        source = self.source[field]
        return bag.with_x(
            bag.x + (source + self.positions[field](bag.position.to(source.dtype))).to(bag.x.dtype)
        )

    def some(self, bag: Tokens, seeds: Tensor, number: int) -> Tokens:
        own = hash_bits(seeds, name_code("fused tokens"), number)
        return bag.keep(random_keep(bag.row, own[bag.row], bag.within(), self.ratio))

    def read(self, chain: nn.ModuleList, bag: Tokens, seeds: Tensor | None, number: int) -> Tokens:
        layout, x = layout_of(bag), bag.x
        own = None if seeds is None else hash_bits(seeds, name_code("fusion"), number)[bag.row]
        own = None if own is None else hash_bits(own, bag.within())
        if layout.order is not None:
            x, own = x[layout.order], None if own is None else own[layout.order]
        rate = 0.0 if own is None else self.dropout

        def drop(depth: int, x: Tensor, half: int) -> Tensor:
            return seeded_dropout(x, own, rate, 2 * depth + half)

        for depth, block in enumerate(chain):
            x, _ = block(x, layout, drop=partial(drop, depth))
        return bag.with_x(layout.leave(x))


FUSIONS = {
    "attention": AttentionFusion,
    "sum": SumFusion,
    "conv": ConvFusion,
    "se": SeFusion,
    "aff": AffFusion,
}


def fusion_of(
    name: str, fields: Sequence[str], width: int, groups: str = "", **attention
) -> nn.Module:
    """The fusion of this name. groups: as text, "a+b,c+d"; attention: other options of
    `AttentionFusion`, which the others do not have. Raises AmodalError for a name that there is
    not, and for groups where there is no attention."""
    if name not in FUSIONS:
        raise unknown("fusion", name, FUSIONS)
    if name != "attention":
        if groups:
            raise AmodalError(f'groups are fused apart by fuse="attention" alone, not by {name!r}')
        return FUSIONS[name](fields, width)
    divided = (
        [[s.strip() for s in group.split("+")] for group in groups.split(",")] if groups else ()
    )
    return AttentionFusion(fields, width, groups=divided, **attention)
