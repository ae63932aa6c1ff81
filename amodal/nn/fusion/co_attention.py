"""Co-dual cross-attention between fields, any of which may be missing.

Mondal et al. 2024 (BioFusionNet), arXiv:2402.10717, for any number of fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amodal.core import Column, Embeddings, Ragged, Tokens, name_code
from amodal.nn.attention.cross import PaddedAttention, PaddedLayout, join_lists
from amodal.nn.dropout import seeded_dropout
from amodal.nn.fusion import late_fusion
from amodal.nn.transformer import Transformer
from amodal.nn.trunks import SourceTokens


class CoDualAttention(nn.Module):
    """Each field reads the others, reads them a second time, and then reads its own tokens.

    Each step is attention with one head, without a residual. A field without any other beside it
    still has its own tokens in the last step.

    Args:
        fields: The fields.
        width: D.
    """

    def __init__(self, fields: Sequence[str], width: int):
        super().__init__()
        self.first, self.second, self.back = (
            nn.ModuleDict({s: PaddedAttention(width, 1) for s in fields}) for _ in range(3)
        )

    def forward(self, tokens: SourceTokens) -> SourceTokens:
        """Field -> its tokens (T, D), maybe none -> the same tokens after the three steps."""
        start = {s: Ragged(part.x, part.lengths()) for s, part in tokens.items()}
        co = {s: read(self.first[s], start[s], others(start, s)) for s in start}
        dual = {s: read(self.second[s], co[s], others(co, s)) for s in start}
        return {
            s: part.with_x(read(self.back[s], dual[s], start[s]).flat) for s, part in tokens.items()
        }


def others(lists: Mapping[str, Ragged], field: str) -> Ragged:
    """Row by row, the tokens of all fields but one."""
    mine, rest = lists[field], [tokens for s, tokens in lists.items() if s != field]
    return join_lists(rest) if rest else Ragged(mine.flat[:0], torch.zeros_like(mine.lengths))


def read(attention: nn.Module, queries: Ragged, keys: Ragged) -> Ragged:
    """What N lists of queries read from N lists of keys, by a `PaddedAttention`."""
    layouts = PaddedLayout(queries.lengths), PaddedLayout(keys.lengths)
    mixed, _ = attention(queries.flat, keys.flat, *layouts)
    return Ragged(mixed, queries.lengths)


class CoDualFusion(nn.Module):
    """Tokens of all fields -> one vector a row.

    Co-dual attention, a transformer over its output, the mean tokens of the fields side by side
    (with a learned vector for a missing field), and a perceptron. The fields `late` join before the
    perceptron's last layer.

    Args:
        fields: Those of the attention.
        late: Those that join later.
        width: D.
        heads, depth: Of the transformer.
        hidden: Width of the perceptron's first layer; a half, a quarter and a sixteenth follow.
        dropout: In its first two layers.
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

    def forward(self, tokens: SourceTokens, seeds: Tensor) -> Column:
        """Fuse the tokens of a batch.

        Args:
            tokens: Field -> tokens (T, D), of some of the fields.
            seeds: (B,) int64, of the rows, for the dropout.

        Returns:
            (N, out_width), of the rows that have any token.
        """
        z = {s: tokens[s].pool() for s in self.late if s in tokens}
        attending = {s: tokens[s] for s in self.fields if s in tokens}
        if attending:
            parts: SourceTokens = self.attention(attending)
            whole: Tokens = self.transformer(Tokens.join(list(parts.values())))
            z |= {s: whole.only(s).pool() for s in attending}
        first = next(iter(z.values()))
        nothing = Column(first.flat[:0], first.rows[:0])
        # a ParameterDict is in alphabetical order, and the perceptron in that of the fields
        absent = {s: self.absent[s] for s in (*self.fields, *self.late)}
        columns = {s: z.get(s, nothing) for s in absent}
        wide = late_fusion.side_by_side(absent, Embeddings(columns, len(seeds)))
        x, late = torch.split(wide.flat, list(self.sizes), 1)
        for number, layer in enumerate(self.layers):
            # `late` enters at the fourth and last layer
            x = layer(torch.cat([x, late], 1) if number == 3 else x)
            if self.training and number < 2:
                stream = name_code(f"dropout {number}")
                x = seeded_dropout(x, seeds[wide.rows], self.dropout, stream)
        return Column(x, wide.rows)
