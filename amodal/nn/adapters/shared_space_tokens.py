"""Tokens of a common space that are projected into the upper blocks of several trunks.

MMRL: Guo and Gu, CVPR 2025, arXiv:2503.08497, 3.2; MMRL++: arXiv:2505.10088, which shares the
projections and lets tokens go on from block to block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Tokens, field_of
from amodal.core.part import Part
from amodal.nn.adapters.block_tokens import depth_of
from amodal.nn.adapters.lora import LowRank
from amodal.nn.backbones.layer_hooks import hook_layers, layers_of
from amodal.nn.encoder import Encoder
from amodal.nn.inserted_tokens import PROMPT, are_prompts, insert, without_prompts


class SpaceMaps(nn.Module):
    """From the common space to one trunk, another linear map for each block.

    Args:
        space: Dimensions of the common space.
        width: D of the trunk.
        blocks: How many blocks get tokens.
        rank: 0 for independent maps; else all blocks share a weight and have a difference of this
            rank each (the shared-residual representation aligner of MMRL++). Biases are not shared.
    """

    def __init__(self, space: int, width: int, blocks: int, rank: int = 0):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(space, width) for _ in range(0 if rank else blocks))
        if rank:
            shared = nn.Linear(space, width)
            self.weight = shared.weight
            self.bias = nn.ParameterList(
                nn.Parameter(shared.bias.detach().clone()) for _ in range(blocks)
            )
            r = min(rank, space, width)
            self.residual = nn.ModuleList(
                LowRank(shared.weight, r, float(r)) for _ in range(blocks)
            )

    def forward(self, tokens_KS: Tensor, i: int) -> Tensor:
        """(K, space) -> (K, D), the tokens for block `i` of those that get some."""
        if len(self.linears):
            out: Tensor = self.linears[i](tokens_KS)
            return out
        return nn.functional.linear(tokens_KS, self.residual[i](self.weight), self.bias[i])


class IndependentTokens(nn.Module):
    """Independent deep prompts: tokens of one trunk, others for each block.

    Args:
        count: K.
        width: D of the trunk.
        blocks: How many blocks get tokens.
    """

    def __init__(self, count: int, width: int, blocks: int):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(blocks, count, width) * 0.02)

    def forward(self, tokens_KS: Tensor, i: int) -> Tensor:
        """(K, D), the tokens for block `i`; the argument is not used."""
        return self.tokens[i]


class SpaceTokens(Part):
    """A `BlockHook` for the trunks of several fields, which inserts K tokens of a common space.

    Fields may be read by pretrained backbones: then the tokens enter their layers, behind the first
    token of a value, which is the class token of a picture and the start of a text.

    They enter at block `first`. At each later block they become beta times the block's own tokens
    plus 1 - beta times what they have become.

    Args:
        fields: The fields.
        width: D of their trunks, or field -> D where they differ.
        depth: Blocks of their trunks, or field -> blocks.
        count: K.
        space: Dimensions of the common space; 0 for independent tokens.
        first: Counted from 0, or field -> that.
        beta: From 0 to 1, at which tokens are replaced.
        rank: See `SpaceMaps`.
        backbone_fields: Those that are read by pretrained backbones.

    Raises:
        AmodalError: For numbers out of range.
    """

    def __init__(
        self,
        fields: Sequence[str],
        width: int | Mapping[str, int],
        depth: int | Mapping[str, int],
        *,
        count: int = 5,
        space: int = 512,
        first: int | Mapping[str, int] = 0,
        beta: float = 1.0,
        rank: int = 0,
        backbone_fields: Sequence[str] = (),
    ):
        super().__init__()
        widths, depths, firsts = (of_fields(fields, n) for n in (width, depth, first))
        inside = all(0 <= firsts[f] < depths[f] for f in fields)
        if count < 1 or space < 0 or rank < 0 or not inside or not 0 <= beta <= 1:
            raise AmodalError(
                f"tokens are at least one ({count}), of a space of width 0 or more ({space}), at "
                f"block {first} of {depth} (counted "
                f"from 0), mixed by a share from 0 to 1 ({beta}), and ranks are not negative "
                f"({rank})"
            )
        self.count, self.space, self.beta, self.rank = count, space, beta, rank
        self.first, self.depth = firsts, depths
        self.backbone_fields = tuple(backbone_fields)
        self.collected: dict[str, Column] | None = None
        self.bank = nn.Parameter(torch.randn(count, space) * 0.02)

        def maps(field: str) -> nn.Module:
            blocks = depths[field] - firsts[field]
            if space:
                return SpaceMaps(space, widths[field], blocks, rank)
            return IndependentTokens(count, widths[field], blocks)

        self.maps = nn.ModuleDict({f: maps(f) for f in fields})

    def attach(self, encoder: Encoder) -> None:
        """Let gradients through the backbones, whose own parameters stay frozen."""
        for field in self.backbone_fields:
            cast(Any, encoder.tokenizers[field]).pass_gradients()

    @contextmanager
    def collect(self) -> Iterator[dict[str, Column]]:
        """Field -> (N, K, D), filled inside the `with`: the tokens after the last block, before the
        norm of the trunk. Of backbones the rows are numbers of the values read."""
        self.collected = {}
        try:
            yield self.collected
        finally:
            self.collected = None

    def forward(self, layer: int, tokens: Tokens, block: Callable[..., Tokens]) -> Tokens:
        """As a `BlockHook`.

        Args:
            layer: Number of the block.
            tokens: Of one field.
            block: The block.
        """
        field = field_of(next(n for n in tokens.names if n != PROMPT))
        if field not in self.maps or layer < self.first[field]:
            return block(tokens)
        token_KD = self.maps[field](self.bank, layer - self.first[field])
        if layer == self.first[field]:
            rows, after = tokens.rows(), int(field in self.backbone_fields)
            tokens = insert(tokens, rows, token_KD.expand(len(rows), -1, -1), after=after)
        else:
            tokens = self.renewed(tokens, token_KD)
        tokens = block(tokens)
        if layer < self.depth[field] - 1:
            return tokens
        if self.collected is not None:
            out = tokens.keep(are_prompts(tokens))
            self.collected[field] = Column(torch.unflatten(out.x, 0, (-1, self.count)), out.rows())
        return without_prompts(tokens)

    def renewed(self, tokens: Tokens, token_KD: Tensor) -> Tokens:
        """The tokens, with those of the common space mixed with `token_KD` (K, D)."""
        is_prompt = are_prompts(tokens)
        # rows have the same number of tokens, in order, so repeating serves them all
        new = token_KD.to(tokens.x.dtype).repeat(int(is_prompt.sum()) // self.count, 1)
        if self.beta < 1:
            new = self.beta * new + (1 - self.beta) * tokens.x[is_prompt]
        return tokens.with_x(tokens.x.masked_scatter(is_prompt.unsqueeze(1), new))


def of_fields(fields: Sequence[str], number: int | Mapping[str, int]) -> dict[str, int]:
    """Field -> number, where one may stand for all."""
    return {f: number if isinstance(number, int) else number[f] for f in fields}


@torch.no_grad()
def layers_of_field(encoder: Encoder, field: str) -> tuple[int, int]:
    """D and the number of layers of what reads a field.

    Raises:
        AmodalError: If tokens cannot be put between them.
    """
    if not encoder.contextual(field):
        return encoder.width, depth_of(encoder, [field])
    body: Any = cast(Any, encoder.tokenizers[field]).body
    layers = layers_of(getattr(body, "model", body))
    widths: list[int] = []

    def look(layer: int, tokens: Tokens, block: Callable[..., Tokens]) -> Tokens:
        widths.append(tokens.x.shape[1])
        return block(tokens)

    with hook_layers(layers, look, (field,)):
        body(body.example().to(encoder.field_token[field].device))
    return widths[-1], len(layers)


def space_tokens(
    encoder: Encoder, *, fields: Sequence[str] = (), first: int | None = None, **options: Any
) -> SpaceTokens:
    """Tokens of a common space for an encoder.

    Args:
        encoder: With separate trunks.
        fields: All fields unless given.
        first: The same block for all; unless given the paper's, block 6 of 12, in proportion.
        options: Of `SpaceTokens`.

    Raises:
        AmodalError: For other encoders.
    """
    if encoder.trunk != "separate":
        raise AmodalError(
            "tokens of a common space connect trunks that share nothing else; this encoder has "
            f'trunk="{encoder.trunk}"'
        )
    names = list(fields or encoder.fields)
    inside = [f for f in names if encoder.contextual(f)]
    if not inside:
        depth = depth_of(encoder)
        # the sixth of 12 blocks, which is number 5 from 0
        first = max(depth // 2 - 1, 0) if first is None else first
        return SpaceTokens(names, encoder.width, depth, first=first, **options)
    sizes = {f: layers_of_field(encoder, f) for f in names}
    return SpaceTokens(
        names,
        {f: width for f, (width, _) in sizes.items()},
        {f: depth for f, (_, depth) in sizes.items()},
        first={f: max(d // 2 - 1, 0) if first is None else first for f, (_, d) in sizes.items()},
        backbone_fields=inside,
        **options,
    )
