"""Learned tokens that go with a row through some blocks of a trunk (deep prompts: Jia et al., ECCV
2022, arXiv:2203.12119, 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, field_of, unknown
from amodal.core.part import Part
from amodal.nn.adapters.block_tokens import depth_of, put_in, taken_out
from amodal.nn.encoder import Encoder

MAX_FIELDS = 10
PLACES = ("input", "attention")


class PatternPrompts(Part):
    """Prompts for each of the 2^M - 1 sets of fields that a row may have (Lee et al., CVPR 2023,
    arXiv:2303.03369, 3.2-3.3).

    fields: M; of a joint trunk `width` wide with `depth` blocks, of which the first `layers` have
    prompts; length: tokens of each set in a block. at: "input", before the tokens of the row, or
    "attention", half of them as keys and half as values of that block alone. grow: (input) prompts
    of earlier blocks stay beside new ones. aware: False for one set, whatever a row has.
    """

    def __init__(
        self,
        fields: Sequence[str],
        width: int,
        depth: int,
        *,
        length: int = 16,
        layers: int = 6,
        at: str = "input",
        grow: bool = True,
        aware: bool = True,
    ):
        super().__init__()
        if at not in PLACES:
            raise unknown("place of prompts", at, PLACES)
        if length < 1 or layers < 1 or (at == "attention" and length % 2):
            raise AmodalError(
                f"prompts are at least one token (as keys and values an even number) in at least one block, not {length} in {layers}"
            )
        if aware and len(fields) > MAX_FIELDS:
            raise AmodalError(
                f"{len(fields)} fields can be there or lack in {2 ** len(fields) - 1} ways, each of which would have prompts of its own; "
                f"take at most {MAX_FIELDS} fields, or the same prompts for all (aware=False)"
            )
        self.fields, self.length, self.layers = tuple(fields), length, min(layers, depth)
        self.at, self.grow, self.aware, self.depth = at, grow, aware, depth
        sets = 2 ** len(fields) - 1 if aware else 1
        self.tokens = nn.Parameter(torch.randn(sets, self.layers, length, width) * 0.02)

    def pattern(self, tokens: Tokens) -> Tensor:
        """(B,) the number of the set of fields that each row has; 0 for one that has none."""
        if not self.aware:
            return tokens.row.new_zeros(tokens.size)
        code = [
            2 ** self.fields.index(field_of(n)) if field_of(n) in self.fields else 0
            for n in tokens.names
        ]
        there = tokens.row.new_zeros(tokens.size, len(code))
        there[tokens.row, tokens.source] = 1
        return ((there * torch.tensor(code, device=there.device)).sum(1) - 1).clamp(min=0)

    def forward(self, layer: int, tokens: Tokens, block: Callable[..., Tokens]) -> Tokens:
        if layer < self.layers:
            own_BPD = self.tokens[self.pattern(tokens), layer]
            if self.at == "attention":
                return block(tokens, prefix=own_BPD.chunk(2, 1))
            rows = taken_out(tokens).rows()
            tokens = put_in(tokens if self.grow else taken_out(tokens), rows, own_BPD[rows])
        tokens = block(tokens)
        return taken_out(tokens) if layer == self.depth - 1 else tokens


def pattern_prompts(encoder: Encoder, **options) -> PatternPrompts:
    """For this encoder, whose trunk must be joint and without a rule on who reads whom. Raises
    AmodalError."""
    if encoder.trunk != "joint" or encoder.routing.mask_rule != "full":
        raise AmodalError(
            f'prompts for sets of fields need one trunk in which all fields of a row meet; this encoder has trunk="{encoder.trunk}"'
            + ("" if encoder.trunk != "joint" else f' and the rule "{encoder.routing.mask_rule}"')
        )
    return PatternPrompts(list(encoder.fields), encoder.width, depth_of(encoder), **options)
