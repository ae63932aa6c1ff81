"""Co-dual cross-attention: fields that read each other, read each other again, and then look back
at themselves. Mondal et al. 2024 (BioFusionNet), arXiv:2402.10717, for any number of fields, any of
them missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core import Column, Embeddings, Ragged, Tokens, name_code
from amodal.nn.attention.cross import Places, Read, side_by_side
from amodal.nn.dropout import seeded_dropout
from amodal.nn.fusion import late_fusion
from amodal.nn.transformer import Transformer


class CoDualAttention(nn.Module):
    """Each step is attention with one head and nothing added to it. Where there is nobody else to
    read, the last step still gives a field what it has itself."""

    def __init__(self, fields: Sequence[str], width: int):
        super().__init__()
        self.first, self.second, self.back = (
            nn.ModuleDict({s: Read(width, 1) for s in fields}) for _ in range(3)
        )

    def forward(self, bags: dict[str, Tokens]) -> dict[str, Tokens]:
        """bags: field -> its tokens (T, D), which may be none; the same tokens again, as they are
        after the three steps."""
        own = {s: Ragged(bag.x, bag.lengths()) for s, bag in bags.items()}
        co = {s: read(self.first[s], own[s], others(own, s)) for s in own}
        dual = {s: read(self.second[s], co[s], others(co, s)) for s in own}
        return {s: bag.with_x(read(self.back[s], dual[s], own[s]).flat) for s, bag in bags.items()}


def others(lists: dict[str, Ragged], field: str) -> Ragged:
    """Row by row, the tokens of all other fields."""
    mine, rest = lists[field], [each for s, each in lists.items() if s != field]
    return side_by_side(rest) if rest else Ragged(mine.flat[:0], torch.zeros_like(mine.lengths))


def read(attention: Read, queries: Ragged, keys: Ragged) -> Ragged:
    seen, _ = attention(queries.flat, keys.flat, Places(queries.lengths), Places(keys.lengths))
    return Ragged(seen, queries.lengths)


class CoDualFusion(nn.Module):
    """Tokens of all fields -> one vector a row, of `out_width`: co-dual attention, a transformer
    over what it gives, the means of the fields side by side with a learned vector for one that a
    row lacks, and a perceptron before whose last layer the fields `late` join.

    hidden: width of the perceptron's first layer, followed by a half, a quarter and a sixteenth;
    dropout: in its first two.
    """

    def __init__(
        self,
        fields: Sequence[str],
        late: Sequence[str],
        width: int,
        *,
        heads: int,
        depth: int = 3,
        hidden: int = 512,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.fields, self.late, self.dropout = tuple(fields), tuple(late), dropout
        self.attention, self.transformer = (
            CoDualAttention(fields, width),
            Transformer(width, depth, heads),
        )
        self.absent = nn.ParameterDict(
            {s: nn.Parameter(torch.zeros(width)) for s in (*fields, *late)}
        )
        self.sizes = len(fields) * width, len(late) * width
        outs = [max(hidden // part, 1) for part in (1, 2, 4, 16)]
        ins = [self.sizes[0], outs[0], outs[1], outs[2] + self.sizes[1]]
        steps = (
            nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b), nn.ReLU()) for a, b in zip(ins, outs)
        )
        self.layers, self.out_width = nn.ModuleList(steps), outs[-1]

    def forward(self, bags: dict[str, Tokens], seeds: Tensor) -> Column:
        """(N, out_width) of the rows that have any token. bags: of some of the fields; seeds: of
        the rows (B,), for the dropout."""
        z, read = (
            {s: bags[s].pool() for s in self.late if s in bags},
            {s: bags[s] for s in self.fields if s in bags},
        )
        if read:
            whole = self.transformer(Tokens.join(list(self.attention(read).values())))
            z |= {s: whole.only(s).pool() for s in read}
        first = next(iter(z.values()))
        nothing = Column(first.values[:0], first.rows[:0])
        absent = {
            s: self.absent[s] for s in (*self.fields, *self.late)
        }  # torch keeps them in another order
        wide = late_fusion.side_by_side(
            absent, Embeddings({s: z.get(s, nothing) for s in absent}, len(seeds))
        )
        x, late = wide.values.split(self.sizes, 1)
        for number, layer in enumerate(self.layers):
            x = layer(torch.cat([x, late], 1) if number == 3 else x)
            if self.training and number < 2:
                x = seeded_dropout(
                    x, seeds[wide.rows], self.dropout, name_code(f"dropout {number}")
                )
        return Column(x, wide.rows)
