"""From the tokens of several fields to one vector a row.

Self-attention over all of them: Ma et al., CVPR 2023 workshops, arXiv:2304.06370, section 3;
squeeze and excitation: Hu et al. 2018, arXiv:1709.01507; attentional feature fusion: Dai et al.
2021, arXiv:2009.14082. A fusion takes tokens of width D (field -> tokens, any of them missing) and
gives (N, D), of the rows that have any token. In training it also takes the seeds (B,) of the rows,
for what is random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Embeddings, Tokens, name_code, unknown
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.nn.attention.varlen import layout_of
from amodal.nn.dropout import seeded_dropout
from amodal.nn.fusion.late_fusion import side_by_side
from amodal.nn.pooling import segment_sum
from amodal.nn.positions import Learned
from amodal.nn.transformer import Block
from amodal.nn.trunks import SourceTokens


def with_missing(tokens: SourceTokens, fields: Sequence[str]) -> SourceTokens:
    """The tokens in the order of `fields`, empty ones for a missing field.

    Raises:
        AmodalError: For a field that is not in `fields`.
    """
    if strange := [s for s in tokens if s not in fields]:
        raise unknown("field of this fusion", strange[0], fields)
    empty = next(iter(tokens.values())).at(
        torch.zeros(0, dtype=torch.int64, device=next(iter(tokens.values())).row.device)
    )
    return {s: tokens.get(s, empty) for s in fields}


def bottleneck(width: int, ratio: float) -> nn.Sequential:
    """The bottleneck that weighs channels, without batch norm, which would couple rows."""
    inner = max(1, int(width / ratio))
    return nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))


class SumFusion(nn.Module):
    """The sum over fields of their mean tokens.

    That is also a sum of feature maps, averaged over places.
    """

    def __init__(self, fields: Sequence[str], width: int):
        super().__init__()
        self.fields, self.width = tuple(fields), width

    def forward(self, tokens: SourceTokens, seeds: Tensor | None = None) -> Column:
        """Field -> tokens -> (N, D)."""
        means = {s: part.pool() for s, part in with_missing(tokens, self.fields).items()}
        absent = {s: next(iter(means.values())).flat.new_zeros(self.width) for s in self.fields}
        vectors = side_by_side(absent, Embeddings(means, next(iter(tokens.values())).size))
        return Column(self.mix(vectors.flat, tokens, vectors.rows), vectors.rows)

    def mix(self, means_NX: Tensor, tokens: SourceTokens, rows: Tensor) -> Tensor:
        """Mean tokens of all fields, side by side -> one vector.

        Args:
            means_NX: (N, fields x D), zero for a field that a row lacks.
            tokens: Of the fields.
            rows: (N,) int64, of the vectors.

        Returns:
            (N, D).
        """
        out: Tensor = torch.unflatten(means_NX, 1, (len(self.fields), self.width)).sum(1)
        return out


class ConvFusion(SumFusion):
    """A linear map of the mean tokens of all fields, side by side.

    That is also a convolution of size 1 of feature maps side by side, averaged over places.
    """

    def __init__(self, fields: Sequence[str], width: int):
        super().__init__(fields, width)
        self.linear = nn.Linear(width * len(fields), width)

    def mix(self, means_NX: Tensor, tokens: SourceTokens, rows: Tensor) -> Tensor:
        """See `SumFusion.mix`."""
        out: Tensor = self.linear(means_NX)
        return out


class SeFusion(SumFusion):
    """As `SumFusion`, with a weight for every channel of every field.

    Weights come from the mean tokens of all fields.
    """

    def __init__(self, fields: Sequence[str], width: int, ratio: float = 4.0):
        super().__init__(fields, width)
        self.gate = bottleneck(width * len(fields), ratio)

    def mix(self, means_NX: Tensor, tokens: SourceTokens, rows: Tensor) -> Tensor:
        """See `SumFusion.mix`."""
        return super().mix(means_NX * self.gate(means_NX).sigmoid(), tokens, rows)


class AffFusion(SumFusion):
    """As `SeFusion`, but a token's weights also come from what all fields have at its place.

    The place of a token in another field is found by order: token i of n meets token
    floor((i + 1/2) m / n) of m, which is the same one if there are as many.
    """

    def __init__(self, fields: Sequence[str], width: int, ratio: float = 4.0):
        super().__init__(fields, width)
        self.whole, self.local = (bottleneck(width * len(fields), ratio) for _ in range(2))

    def mix(self, means_NX: Tensor, tokens: SourceTokens, rows: Tensor) -> Tensor:
        """See `SumFusion.mix`."""
        tokens = with_missing(tokens, self.fields)
        size, total = next(iter(tokens.values())).size, means_NX.new_zeros(len(rows), self.width)
        whole = means_NX.new_zeros(size, means_NX.shape[1]).index_copy(
            0, rows, self.whole(means_NX)
        )
        for number, part in enumerate(tokens.values()):
            local_TX = torch.cat([self.opposite(part, other) for other in tokens.values()], 1)
            weight = (
                (self.local(local_TX) + whole[part.row])
                .unflatten(1, (len(tokens), -1))[:, number]
                .sigmoid()
            )
            count = part.lengths()[rows].clamp(min=1).unsqueeze(1)
            total = total + segment_sum(weight * part.x, part)[rows] / count
        return total

    @staticmethod
    def opposite(tokens: Tokens, other: Tokens) -> Tensor:
        """(T, D): for each token the other field's at its place, zero in rows that lack it."""
        mine, theirs = tokens.lengths()[tokens.row], other.lengths()
        # floor((i + 1/2) m / n) in whole numbers, which no rounding can push over an edge
        place = ((2 * tokens.within() + 1) * theirs[tokens.row]) // (2 * mine)
        index, exists = (theirs.cumsum(0) - theirs)[tokens.row] + place, theirs[tokens.row] > 0
        # the last entry is what rows without the other field read
        padded = torch.cat([other.x, other.x.new_zeros(1, other.x.shape[1])])
        return padded[torch.where(exists, index, len(other))]


class AttentionFusion(nn.Module):
    """Blocks of self-attention over the tokens of all fields, with learned positions, and a sum.

    Args:
        fields: The fields.
        width: D.
        heads: H, which divide D.
        depth: Blocks.
        ratio: Share of a row's tokens that is left out in training.
        dropout: Of what each half of a block adds, in training.
        groups: Lists of fields that are read apart first, by blocks of their own, and then
            together.

    Raises:
        AmodalError: For groups that do not divide the fields, and numbers out of range.
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
                f"groups must divide the fields {', '.join(fields)}, each in one group, not "
                f"{groups}"
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

    def forward(self, tokens: SourceTokens, seeds: Tensor | None = None) -> Column:
        """Field -> tokens -> (N, D). seeds: (B,) int64 in training, else None."""
        tokens = with_missing(tokens, self.fields)
        placed = {s: self.add_positions(part, s) for s, part in tokens.items()}
        sets = [Tokens.join([placed[s] for s in group]) for group in self.groups]
        if seeds is not None:
            sets = [self.sample(part, seeds, number) for number, part in enumerate(sets)]
        groups = [
            self.run_chain(chain, part, seeds, n)
            for n, (chain, part) in enumerate(zip(self.chains, sets))
        ]
        whole = groups[0]
        if len(groups) > 1:
            whole = self.run_chain(self.chains[-1], Tokens.join(groups), seeds, len(groups))
        rows = whole.rows()
        return Column(segment_sum(whole.x, whole)[rows], rows)

    def add_positions(self, tokens: Tokens, field: str) -> Tokens:
        """The tokens of a field with its embeddings of field and position."""
        source = self.source[field]
        return tokens.with_x(
            tokens.x
            + (source + self.positions[field](tokens.position.to(source.dtype))).to(tokens.x.dtype)
        )

    def sample(self, tokens: Tokens, seeds: Tensor, number: int) -> Tokens:
        """A random part of the tokens of each row."""
        seed_T = hash_bits(seeds, name_code("fused tokens"), number)[tokens.row]
        return tokens.keep(random_keep(tokens.row, seed_T, tokens.within(), self.ratio))

    def run_chain(
        self, chain: nn.Module, tokens: Tokens, seeds: Tensor | None, number: int
    ) -> Tokens:
        """The tokens after a chain of blocks."""
        layout, x = layout_of(tokens), tokens.x
        seeds_T = (
            None if seeds is None else hash_bits(seeds, name_code("fusion"), number)[tokens.row]
        )
        # a seed for each token, or all tokens of a row would lose the same dimensions
        seeds_T = None if seeds_T is None else hash_bits(seeds_T, tokens.within())
        if layout.order is not None:
            x, seeds_T = x[layout.order], None if seeds_T is None else seeds_T[layout.order]
        rate = 0.0 if seeds_T is None else self.dropout

        def drop(depth: int, x: Tensor, half: int) -> Tensor:
            return x if seeds_T is None else seeded_dropout(x, seeds_T, rate, 2 * depth + half)

        assert isinstance(chain, nn.ModuleList)
        for depth, block in enumerate(chain):
            x, _ = block(x, layout, drop=partial(drop, depth))
        return tokens.with_x(layout.leave(x))


FUSIONS: dict[str, Callable[..., nn.Module]] = {
    "attention": AttentionFusion,
    "sum": SumFusion,
    "conv": ConvFusion,
    "se": SeFusion,
    "aff": AffFusion,
}


def fusion_of(
    name: str, fields: Sequence[str], width: int, groups: str = "", **attention: Any
) -> nn.Module:
    """The fusion of a name.

    Args:
        name: One of `FUSIONS`.
        fields: The fields.
        width: D.
        groups: As text, "a+b,c+d".
        attention: Other options of `AttentionFusion`.

    Raises:
        AmodalError: For an unknown name, and for groups without attention.
    """
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
