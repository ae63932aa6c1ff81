"""Read-only prompts: learned tokens that read a field's tokens on their way through its trunk and
are read by none of them.

What the encoder makes of the field therefore stays as it was (Lee et al., ICCV 2023,
arXiv:2308.14960).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Tokens, field_of
from amodal.core.embeddings import FUSED
from amodal.nn.attention.masks import pure
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import Transformer
from amodal.nn.trunks import ALL, Bags


class ReadOnlyPrompts(nn.Module):
    """`count` prompts for each field of the encoder, whose trunk must not let fields meet
    (AmodalError).

    Prompts go through all blocks of a transformer trunk. A pretrained backbone or a recurrent trunk
    cannot take them in; there they read the finished tokens, through one block of their own.
    """

    def __init__(self, encoder: Encoder, count: int):
        super().__init__()
        if encoder.trunk == "joint":
            raise AmodalError(
                'prompts are to tell what one field says of another, and with trunk="joint" fields meet before; take "separate"'
            )
        if count < 1:
            raise AmodalError(f"there must be at least one prompt, not {count}")
        self.tokens = nn.ParameterDict(
            {f: nn.Parameter(torch.randn(count, encoder.width) * 0.02) for f in encoder.fields}
        )
        outside = [f for f in encoder.fields if not isinstance(trunk_of(encoder, f), Transformer)]
        self.readers = nn.ModuleDict(
            {f: Transformer(encoder.width, 1, encoder.heads_each) for f in outside}
        )

    def forward(self, encoder: Encoder, bags: Bags) -> tuple[Bags, dict[str, Column]]:
        """bags: of `Encoder.tokenize`. Returns the tokens of `Encoder.encode`, and source -> (N,
        count x D), the final prompts of each row end to end."""
        context, states = {}, {}
        for source, bag in bags.items():
            field = field_of(source)
            if field in self.readers:
                context[source] = encoder.encode({source: bag})[source]
                states[source] = read(self.readers[field], context[source], self.tokens[field])[1]
            else:
                own = encoder.pools[field].prepare(bag)
                context[source], states[source] = read(
                    trunk_of(encoder, field), own, self.tokens[field]
                )
        return context, states


def trunk_of(encoder: Encoder, field: str) -> nn.Module | None:
    """What serves the field; None where a backbone is all it needs."""
    key = ALL if encoder.trunk == "shared" else field
    return encoder.trunks[key] if key in encoder.trunks else None


def read(trunk: Transformer, bag: Tokens, prompts_PD: Tensor) -> tuple[Tokens, Column]:
    """The tokens of one source as they leave the trunk, and (N, P x D) the prompts that went along.

    To the tokens, prompts are what fusion tokens are to fields, so they take that name and its
    rule: they read all and are not read.
    """
    rows = bag.rows()
    each = torch.full_like(rows, len(prompts_PD))
    position = bag.position.new_zeros(len(rows) * len(prompts_PD), bag.position.shape[1])
    asking = Tokens.of(
        prompts_PD.to(bag.x.dtype).repeat(len(rows), 1), rows, each, position, FUSED, bag.size
    )
    out = trunk(Tokens.join([bag, asking]), mask_rule=pure)
    own = replace(out.keep(out.source == 0), names=bag.names)
    return own, Column(
        out.x[out.source == 1].unflatten(0, (len(rows), len(prompts_PD))).flatten(1), rows
    )
