"""Deep prompts: learned tokens in some blocks of a trunk.

Jia et al., ECCV 2022, arXiv:2203.12119, 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, field_of, unknown
from amodal.core.part import Part
from amodal.nn.adapters.block_tokens import depth_of
from amodal.nn.encoder import Encoder
from amodal.nn.inserted_tokens import insert, without_prompts

MAX_FIELDS = 10
LEVELS = ("input", "attention")


class PatternPrompts(Part):
    """Prompts for each of the 2^M - 1 sets of fields that a row may have.

    Missing-aware prompts, Lee et al., CVPR 2023, arXiv:2303.03369, 3.2-3.3.

    Args:
        fields: The M fields of a joint trunk.
        width: Of the trunk.
        depth: Its blocks.
        length: Tokens of a prompt in a block.
        layers: The first so many blocks have prompts.
        level: "input", before the tokens of the row, or "attention", half of them as keys and half
            as values of that block alone.
        accumulate: (input) Prompts of earlier blocks stay beside those of later ones.
        missing_aware: False for one prompt, whatever fields a row has.

    Raises:
        AmodalError: For an unknown level, numbers out of range, and too many fields.
    """

    def __init__(
        self,
        fields: Sequence[str],
        width: int,
        depth: int,
        *,
        length: int = 16,
        layers: int = 6,
        level: str = "input",
        accumulate: bool = True,
        missing_aware: bool = True,
    ):
        super().__init__()
        if level not in LEVELS:
            raise unknown("level of prompts", level, LEVELS)
        if length < 1 or layers < 1 or (level == "attention" and length % 2):
            raise AmodalError(
                "prompts are at least one token (as keys and values an even number) in at least "
                f"one block, not {length} in {layers}"
            )
        if missing_aware and len(fields) > MAX_FIELDS:
            raise AmodalError(
                f"{len(fields)} fields can be there or lack in {2 ** len(fields) - 1} ways, each "
                "of which would have prompts of its own; "
                f"take at most {MAX_FIELDS} fields, or the same prompts for all "
                "(missing_aware=False)"
            )
        self.fields, self.length, self.layers = tuple(fields), length, min(layers, depth)
        self.level, self.accumulate, self.missing_aware = level, accumulate, missing_aware
        self.depth = depth
        sets = 2 ** len(fields) - 1 if missing_aware else 1
        self.tokens = nn.Parameter(torch.randn(sets, self.layers, length, width) * 0.02)

    def pattern(self, tokens: Tokens) -> Tensor:
        """(B,) int64, the number of the set of fields that each row has; 0 for an empty row."""
        if not self.missing_aware:
            return tokens.row.new_zeros(tokens.size)
        code = [
            2 ** self.fields.index(field_of(n)) if field_of(n) in self.fields else 0
            for n in tokens.names
        ]
        present = tokens.row.new_zeros(tokens.size, len(code))
        present[tokens.row, tokens.source] = 1
        bits = torch.tensor(code, device=present.device)
        # a set of fields as bits, less 1, since the empty set has no prompts
        return ((present * bits).sum(1) - 1).clamp(min=0)

    def forward(self, layer: int, tokens: Tokens, block: Callable[..., Tokens]) -> Tokens:
        """As a `BlockHook`."""
        if layer < self.layers:
            prompt_BPD = self.tokens[self.pattern(tokens), layer]
            if self.level == "attention":
                return block(tokens, prefix=prompt_BPD.chunk(2, 1))
            rows = without_prompts(tokens).rows()
            tokens = insert(
                tokens if self.accumulate else without_prompts(tokens), rows, prompt_BPD[rows]
            )
        tokens = block(tokens)
        return without_prompts(tokens) if layer == self.depth - 1 else tokens


def pattern_prompts(encoder: Encoder, **options: Any) -> PatternPrompts:
    """Prompts for an encoder.

    Args:
        encoder: With a joint trunk, in which all sources see each other.
        options: Of `PatternPrompts`.

    Raises:
        AmodalError: For other encoders.
    """
    if encoder.trunk != "joint" or encoder.routing.mask_rule != "full":
        raise AmodalError(
            "prompts for sets of fields need one trunk in which all fields of a row meet; this "
            f'encoder has trunk="{encoder.trunk}"'
            + ("" if encoder.trunk != "joint" else f' and the rule "{encoder.routing.mask_rule}"')
        )
    return PatternPrompts(list(encoder.fields), encoder.width, depth_of(encoder), **options)
