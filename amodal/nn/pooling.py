"""Pooling: the tokens of a row -> one vector."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from amodal.core import AmodalError, Column, Tokens, unknown
from amodal.core.host import on_host, take
from amodal.core.part import Part


class Pool(nn.Module):
    """What all poolings share: `prepare` runs before the trunk and `forward` after it.

    Args:
        width: D of the tokens.
    """

    out_width: int
    """Dimensions of the pooled vector."""

    def __init__(self, width: int):
        super().__init__()
        self.out_width = width

    def prepare(self, tokens: Tokens) -> Tokens:
        """Add what this pooling needs in the trunk, such as a class token."""
        return tokens

    def strip(self, tokens: Tokens) -> Tokens:
        """Take off what `prepare` added."""
        return tokens

    def forward(self, tokens: Tokens) -> Column:
        """Tokens x (T, D) -> (N, out_width), of the rows that have any."""
        raise NotImplementedError

    def single(self, tokens: Tokens) -> Tensor:
        """(T, out_width): what each token would be pooled into if it were all that its row has.

        Args:
            tokens: After the trunk and `strip`.
        """
        alone = replace(
            tokens, row=torch.arange(len(tokens), device=tokens.row.device), size=len(tokens)
        )
        return self.forward(alone).flat


class MeanPool(Pool):
    """The mean token of each row."""

    def forward(self, tokens: Tokens) -> Column:
        """See `Pool.forward`."""
        return tokens.pool()


class PerceptronPool(Part, Pool):
    """A norm and a perceptron with one hidden layer and GELU, of the mean token of each row.

    Args:
        width: D; the hidden layer is 4 D wide.
    """

    def __init__(self, width: int):
        super().__init__(width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tokens) -> Column:
        """See `Pool.forward`."""
        mean = tokens.pool()
        return Column(self.of_mean(mean.flat), mean.rows)

    def of_mean(self, x_ND: Tensor) -> Tensor:
        """The mean tokens of N rows -> what they are pooled into."""
        pooled: Tensor = self.down(gelu(self.up(self.norm(x_ND))))
        return pooled


class LeadingTokenPool(Pool):
    """The first token of each row."""

    def strip(self, tokens: Tokens) -> Tokens:
        """Remove the first token of each row."""
        return tokens.keep(tokens.skeleton().within() > 0)

    def forward(self, tokens: Tokens) -> Column:
        """See `Pool.forward`."""
        return tokens.first()

    def single(self, tokens: Tokens) -> Tensor:
        """See `Pool.single`; a token stands in the place of the first one."""
        return tokens.x


class ClsPool(LeadingTokenPool):
    """A learned class token, which is put before those of each row and read at the end."""

    def __init__(self, width: int):
        super().__init__(width)
        self.token = nn.Parameter(torch.randn(width) * 0.02)

    def prepare(self, tokens: Tokens) -> Tokens:
        """Put the class token before those of each row."""
        rows = tokens.rows()
        # the class token counts as one of the first source of its row
        source = take(tokens.source, tokens.skeleton().within() == 0)
        position = tokens.position.new_zeros(len(rows), tokens.position.shape[1])
        x_ND = self.token.to(tokens.x.dtype).expand(len(rows), -1)
        cls = Tokens(x_ND, rows, source, position, tokens.names, tokens.size)
        return Tokens.join([cls, tokens])


class RegisterPool(Part, ClsPool):
    """A class token, and learned tokens beside it that nothing reads at the end.

    Registers (Darcet et al., ICLR 2024, arXiv:2309.16588) are where a trunk leaves what it computes
    of a whole value, which it otherwise writes over patches of little content.

    Args:
        width: D.
        registers: How many.

    Raises:
        AmodalError: For none.
    """

    def __init__(self, width: int, registers: int):
        super().__init__(width)
        if isinstance(registers, bool) or not isinstance(registers, int) or registers < 1:
            raise AmodalError(f"registers are a whole number, 1 or more, not {registers!r}")
        self.registers = nn.Parameter(torch.randn(registers, width) * 0.02)

    def prepare(self, tokens: Tokens) -> Tokens:
        """Put the class token and the registers before those of each row."""
        count, rows = len(self.registers), tokens.rows()
        source = take(tokens.source, tokens.skeleton().within() == 0)
        x_TD = self.registers.to(tokens.x.dtype).repeat(len(rows), 1)
        position = tokens.position.new_zeros(len(x_TD), tokens.position.shape[1])
        row, source = (
            on_host(lambda t: t.repeat_interleave(count), each) for each in (rows, source)
        )
        registers = Tokens(x_TD, row, source, position, tokens.names, tokens.size)
        return super().prepare(Tokens.join([registers, tokens]))

    def beside(self, pool: ClsPool) -> RegisterPool:
        """The same with the class token of another pooling."""
        self.token = pool.token
        return self

    def strip(self, tokens: Tokens) -> Tokens:
        """Remove the class token and the registers of each row."""
        return tokens.keep(tokens.skeleton().within() > len(self.registers))


class FirstPool(Part, LeadingTokenPool):
    """The first token of each row, for backbones whose first token stands for a whole value.

    Args:
        width: D.
    """

    def __init__(self, width: int):
        super().__init__(width)


class AttentionPool(Pool):
    """One learned query per head attends to the tokens of a row.

    Set Transformer's PMA with one seed (Lee et al. 2019, arXiv:1810.00825).

    Args:
        width: D.
        heads: They divide D.
    """

    def __init__(self, width: int, heads: int = 4):
        super().__init__(width)
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        # query and keys are one map (D -> heads): a learned query only ever multiplies keys
        self.score, self.value, self.out = (
            nn.Linear(width, heads),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )

    def forward(self, tokens: Tokens) -> Column:
        """See `Pool.forward`."""
        x_TD = self.norm(tokens.x)
        weight_TH = segment_softmax(self.score(x_TD), tokens.row, tokens.size)
        value_THd = self.value(x_TD).unflatten(1, (self.heads, -1))
        pooled = segment_sum((value_THd * weight_TH.unsqueeze(2)).flatten(1), tokens)
        rows = tokens.rows()
        return Column(self.out(pooled[rows]), rows)


class MaxPool(Pool):
    """The maximum over the tokens of each row, in each dimension."""

    def forward(self, tokens: Tokens) -> Column:
        """See `Pool.forward`."""
        index = tokens.row.unsqueeze(1).expand_as(tokens.x)
        none = tokens.x.new_zeros(tokens.size, tokens.x.shape[1])
        peak = none.scatter_reduce(0, index, tokens.x, "amax", include_self=False)
        rows = tokens.rows()
        return Column(peak[rows], rows)


class VectorPool(Pool):
    """Attention with weights for each of the D dimensions.

    Softmax over the tokens of V tanh(W x + b) + c (Merkx and Frank 2019, arXiv:1903.11393, eq. 3).
    """

    def __init__(self, width: int, hidden: int = 128):
        super().__init__(width)
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, width))

    def forward(self, tokens: Tokens) -> Column:
        """See `Pool.forward`."""
        weight_TD = segment_softmax(self.score(tokens.x), tokens.row, tokens.size)
        rows = tokens.rows()
        return Column(segment_sum(tokens.x * weight_TD, tokens)[rows], rows)


class GemPool(Pool):
    """The generalised mean, (mean of x^p)^(1/p) in each dimension.

    p is learned: 1 is the mean, large p the maximum (Radenovic, Tolias and Chum 2018,
    arXiv:1711.02512, eq. 3).

    Args:
        width: D.
        power: p at the start.
        min_value: Smaller values are raised to it, since roots are of positive numbers.
    """

    def __init__(self, width: int, power: float = 3.0, min_value: float = 1e-6):
        super().__init__(width)
        self.power, self.min_value = nn.Parameter(torch.tensor(power)), min_value

    def forward(self, tokens: Tokens) -> Column:
        """See `Pool.forward`."""
        raised = tokens.with_x(tokens.x.clamp(min=self.min_value) ** self.power).pool()
        return Column(raised.flat ** (1 / self.power), raised.rows)


def segment_sum(x_TD: Tensor, tokens: Tokens) -> Tensor:
    """(B, D): the sum of x over the tokens of each row."""
    return x_TD.new_zeros(tokens.size, x_TD.shape[1]).index_add(0, tokens.row, x_TD)


def segment_softmax(score_TH: Tensor, row: Tensor, size: int) -> Tensor:
    """Softmax over the tokens of each row.

    Args:
        score_TH: (T, H), each column for itself.
        row: (T,) int64, the row of each token.
        size: B, the number of rows.
    """
    index = row.unsqueeze(1).expand_as(score_TH)
    # the maximum only keeps exp in range: the softmax does not depend on it, nor does its gradient
    peak = score_TH.new_full((size, score_TH.shape[1]), -torch.inf).scatter_reduce(
        0, index, score_TH.detach(), "amax"
    )
    weight = (score_TH - peak[row]).exp()
    return weight / weight.new_zeros(size, weight.shape[1]).index_add(0, row, weight)[row]


POOLS: dict[str, type[Pool]] = {
    "mean": MeanPool,
    "cls": ClsPool,
    "attention": AttentionPool,
    "vector": VectorPool,
    "gem": GemPool,
    "max": MaxPool,
}


def pool_of(name: str, width: int) -> Pool:
    """A pooling with fresh weights.

    Raises:
        AmodalError: For a name that is not in `POOLS`.
    """
    if name not in POOLS:
        raise unknown("pooling", name, POOLS)
    return POOLS[name](width)
