"""From tokens to one vector a row. `prepare` runs before the trunk, `forward` after it; `strip`
takes off what `prepare` added."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import Column, Tokens, unknown
from amodal.core.host import take


class MeanPool(nn.Module):
    """The mean token of each row."""

    def __init__(self, width: int):
        super().__init__()

    def prepare(self, bag: Tokens) -> Tokens:
        return bag

    def strip(self, bag: Tokens) -> Tokens:
        return bag

    def forward(self, bag: Tokens) -> Column:
        return bag.pool()


class ClsPool(nn.Module):
    """A learned token put before each row's own, and read out at the end."""

    def __init__(self, width: int):
        super().__init__()
        self.token = nn.Parameter(torch.randn(width) * 0.02)

    def prepare(self, bag: Tokens) -> Tokens:
        rows = bag.rows()
        source = take(bag.source, bag.skeleton().within() == 0)
        position = bag.position.new_zeros(len(rows), bag.position.shape[1])
        cls = Tokens(
            self.token.to(bag.x.dtype).expand(len(rows), -1),
            rows,
            source,
            position,
            bag.names,
            bag.size,
        )
        return Tokens.join([cls, bag])

    def strip(self, bag: Tokens) -> Tokens:
        return bag.keep(bag.skeleton().within() > 0)

    def forward(self, bag: Tokens) -> Column:
        return bag.first()


class AttentionPool(nn.Module):
    """One learned query for each head reads the row's tokens (Set Transformer's PMA,
    arXiv:1810.00825, with one seed)."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.score, self.value, self.out = (
            nn.Linear(width, heads),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )

    def prepare(self, bag: Tokens) -> Tokens:
        return bag

    def strip(self, bag: Tokens) -> Tokens:
        return bag

    def forward(self, bag: Tokens) -> Column:
        x_TD = self.norm(bag.x)
        weight_TH = segment_softmax(self.score(x_TD), bag.row, bag.size)
        mixed_TD = (
            self.value(x_TD).unflatten(1, (self.heads, -1)) * weight_TH.unsqueeze(2)
        ).flatten(1)
        pooled = mixed_TD.new_zeros(bag.size, mixed_TD.shape[1]).index_add(0, bag.row, mixed_TD)
        rows = bag.rows()
        return Column(self.out(pooled[rows]), rows)


class VectorPool(nn.Module):
    """Attention that weighs the tokens of a row anew for every one of the D dimensions: softmax
    over the tokens of V tanh(W x + b) + c (Merkx and Frank 2019, arXiv:1903.11393, eq. 3)."""

    def __init__(self, width: int, hidden: int = 128):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, width))

    def prepare(self, bag: Tokens) -> Tokens:
        return bag

    def strip(self, bag: Tokens) -> Tokens:
        return bag

    def forward(self, bag: Tokens) -> Column:
        mixed_TD = bag.x * segment_softmax(self.score(bag.x), bag.row, bag.size)
        pooled = mixed_TD.new_zeros(bag.size, mixed_TD.shape[1]).index_add(0, bag.row, mixed_TD)
        rows = bag.rows()
        return Column(pooled[rows], rows)


class GemPool(nn.Module):
    """The generalised mean of what is positive, (mean of x^p)^(1/p) in each dimension, p learned
    from 3: 1 is the mean, large p the maximum (Radenovic, Tolias and Chum 2018, arXiv:1711.02512,
    eq. 3)."""

    def __init__(self, width: int, power: float = 3.0, least: float = 1e-6):
        super().__init__()
        self.power, self.least = nn.Parameter(torch.tensor(power)), least

    def prepare(self, bag: Tokens) -> Tokens:
        return bag

    def strip(self, bag: Tokens) -> Tokens:
        return bag

    def forward(self, bag: Tokens) -> Column:
        raised = bag.with_x(bag.x.clamp(min=self.least) ** self.power).pool()
        return Column(raised.values ** (1 / self.power), raised.rows)


def segment_softmax(score_TH: Tensor, row: Tensor, size: int) -> Tensor:
    """Softmax over the tokens of each row."""
    index = row.unsqueeze(1).expand_as(score_TH)
    peak = score_TH.new_full((size, score_TH.shape[1]), -torch.inf).scatter_reduce(
        0, index, score_TH.detach(), "amax"
    )
    weight = (score_TH - peak[row]).exp()
    return weight / weight.new_zeros(size, weight.shape[1]).index_add(0, row, weight)[row]


POOLS = {
    "mean": MeanPool,
    "cls": ClsPool,
    "attention": AttentionPool,
    "vector": VectorPool,
    "gem": GemPool,
}


def pool_of(name: str, width: int) -> nn.Module:
    if name not in POOLS:
        raise unknown("pooling", name, POOLS)
    return POOLS[name](width)
