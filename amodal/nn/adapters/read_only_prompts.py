"""Read-only prompts: learned tokens that read a field's tokens in its trunk and are read by none.

So the encoder's outputs for the field stay as they were (Lee et al., ICCV 2023, arXiv:2308.14960).
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Tokens, field_of
from amodal.core.embeddings import FUSED
from amodal.nn.attention.masks import pure
from amodal.nn.encoder import Encoder
from amodal.nn.pooling import Pool
from amodal.nn.transformer import Transformer
from amodal.nn.trunks import ALL, SourceTokens


class ReadOnlyPrompts(nn.Module):
    """Prompts for each field of an encoder.

    They go through all blocks of a transformer trunk. A pretrained backbone or a recurrent trunk
    cannot take them in; there they read the finished tokens, through one block of their own.

    Args:
        encoder: Its trunk must not be joint.
        count: Prompts of a field.

    Raises:
        AmodalError: For a joint trunk, and for a count below 1.
    """

    def __init__(self, encoder: Encoder, count: int):
        super().__init__()
        if encoder.trunk == "joint":
            raise AmodalError(
                'read-only prompts are for what one field says of another, and with trunk="joint" '
                'fields meet before; take "separate"'
            )
        if count < 1:
            raise AmodalError(f"there must be at least one prompt, not {count}")
        self.tokens = nn.ParameterDict(
            {f: nn.Parameter(torch.randn(count, encoder.width) * 0.02) for f in encoder.fields}
        )
        outside = [f for f in encoder.fields if not isinstance(trunk_of(encoder, f), Transformer)]
        self.readers = nn.ModuleDict(
            {f: Transformer(encoder.width, 1, encoder.num_heads) for f in outside}
        )

    def forward(
        self, encoder: Encoder, tokens: SourceTokens
    ) -> tuple[SourceTokens, dict[str, Column]]:
        """Run trunks with prompts.

        Args:
            encoder: The encoder.
            tokens: Of `Encoder.tokenize`.

        Returns:
            The tokens of `Encoder.encode`, and source -> (N, count x D), the final prompts of each
            row.
        """
        context, states = {}, {}
        for source, part in tokens.items():
            field = field_of(source)
            if field in self.readers:
                context[source] = encoder.encode({source: part})[source]
                states[source] = read(self.readers[field], context[source], self.tokens[field])[1]
            else:
                prepared = cast(Pool, encoder.pools[field]).prepare(part)
                context[source], states[source] = read(
                    trunk_of(encoder, field), prepared, self.tokens[field]
                )
        return context, states


def trunk_of(encoder: Encoder, field: str) -> nn.Module | None:
    """The trunk of a field; None where its backbone is all that it has."""
    key = ALL if encoder.trunk == "shared" else field
    return encoder.trunks[key] if key in encoder.trunks else None


def read(trunk: nn.Module | None, tokens: Tokens, prompts_PD: Tensor) -> tuple[Tokens, Column]:
    """Run a trunk with prompts.

    To the tokens, prompts are what fusion tokens are to fields: they read all and are not read. So
    they take that name and its mask rule.

    Args:
        trunk: The trunk.
        tokens: Of one source.
        prompts_PD: (P, D).

    Returns:
        The tokens as they leave the trunk, and (N, P x D), the prompts of each row.
    """
    rows = tokens.rows()
    lengths = torch.full_like(rows, len(prompts_PD))
    position = tokens.position.new_zeros(len(rows) * len(prompts_PD), tokens.position.shape[1])
    prompts = Tokens.of(
        prompts_PD.to(tokens.x.dtype).repeat(len(rows), 1),
        rows,
        lengths,
        position,
        FUSED,
        tokens.size,
    )
    assert isinstance(trunk, Transformer)
    out = trunk(Tokens.join([tokens, prompts]), mask_rule=pure)
    result = replace(out.keep(out.source == 0), names=tokens.names)
    return result, Column(
        out.x[out.source == 1].unflatten(0, (len(rows), len(prompts_PD))).flatten(1), rows
    )
