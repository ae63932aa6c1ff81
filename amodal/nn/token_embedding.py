"""The first step of an encoder: values of a batch -> tokens with content, position and field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Tokens, field_of, unknown
from amodal.core.batch import check_batch
from amodal.core.part import Part
from amodal.core.tokens import GROUP
from amodal.modalities import Modality
from amodal.nn.attention.relative import RelativeBias
from amodal.nn.axial import BoxAugmentation, axes_of, with_crop_coordinates
from amodal.nn.backbones.layer_hooks import HooksBackbones, hook_layers, layers_of
from amodal.nn.backbones.module import for_field
from amodal.nn.positions import embedded
from amodal.nn.transformer import BlockHook
from amodal.nn.trunks import SourceTokens


class TokenEmbedding(Part):
    """Methods of an encoder that make tokens, before any of them sees another."""

    tokenizers: nn.ModuleDict
    field_token: nn.ParameterDict
    group_token: nn.ParameterDict
    position: nn.Module | None
    block_hook: nn.Module | None
    relative: RelativeBias | None
    fields: dict[str, Modality]
    positions: str
    width: int

    @property
    def box(self) -> BoxAugmentation | None:
        """How the boxes of crops change in training, of axial positions; None of others."""
        return BoxAugmentation.of(self.positions)

    @classmethod
    def read_args(cls, args: Mapping[str, Any]) -> dict[str, Any]:
        """A spec's arguments as values; each module of the user's own is the one of its field."""
        if isinstance(backbones := args.get("backbones"), dict):
            args = {**args, "backbones": {f: for_field(b, f) for f, b in backbones.items()}}
        return super().read_args(args)

    def tokenize(self, batch: Batch) -> SourceTokens:
        """Tokens of each source, with content, position and field.

        Args:
            batch: Values of B rows.

        Returns:
            Source -> tokens, x (T, D).

        Raises:
            AmodalError: For a field that the encoder does not have.
        """
        content = self.patchify(batch)
        return {source: self.add_positions(tokens) for source, tokens in content.items()}

    def patchify(self, batch: Batch) -> SourceTokens:
        """As `tokenize`, with content alone: masked models predict it, mixing mixes it."""
        check_batch(batch)
        for source in batch.sources:
            if field_of(source) not in self.tokenizers:
                raise unknown("field of this encoder", field_of(source), self.tokenizers)
        tokens = {s: self._read(s, column, batch.size) for s, column in batch.columns.items()}
        box = self.box
        return tokens if box is None else self._in_crops(tokens, box, batch.seeds)

    def _in_crops(
        self, tokens: SourceTokens, box: BoxAugmentation, seeds_B: Tensor
    ) -> SourceTokens:
        """The tokens of sources with where they are in their crops; boxes change in training."""
        changes = self.training and any(p.requires_grad for p in self.parameters())
        return {
            s: with_crop_coordinates(
                t, axes_of([self.fields[field_of(s)]]), box if changes else None, seeds_B
            )
            for s, t in tokens.items()
        }

    def _read(self, source: str, column: Column, size: int) -> Tokens:
        """The tokens of a source by its tokenizer."""
        field, hook = field_of(source), self.block_hook
        tokenizer: Any = self.tokenizers[field]
        hooked: AbstractContextManager[None] = nullcontext()
        if isinstance(hook, HooksBackbones) and field in hook.backbone_fields:
            hooked = hook_layers(layers_of(tokenizer.body.model), cast(BlockHook, hook), (source,))
        with hooked:
            out: Tokens = tokenizer(column, source, size)
        return out

    def add_positions(self, tokens: Tokens) -> Tokens:
        """Add the embeddings of field, group and position.

        Args:
            tokens: Of one source, x (T, D), as `patchify` makes them.
        """
        field = field_of(tokens.names[0])
        x_TD: Tensor = tokens.x + self.field_token[field]
        if field in self.group_token:
            x_TD = x_TD + self.group_token[field][tokens.attributes[GROUP]]
        # a pretrained backbone has given its tokens positions of its own
        if self.position is not None and not self.positioned(field):
            x_TD = x_TD + embedded(self.position, tokens).to(x_TD.dtype)
        if self.relative is not None:
            x_TD = x_TD + self.relative.zero().to(x_TD.dtype)
        return tokens.with_x(x_TD)

    def contextual(self, field: str) -> bool:
        """Whether the tokenizer of a field is a backbone, whose tokens have seen each other."""
        # asked by name: a tokenizer may be any module, of a modality or of a plug-in
        return bool(getattr(self.tokenizers[field], "contextual", False))

    def positioned(self, field: str) -> bool:
        """Whether the tokens of a field have positions, and what says the field, already."""
        return self.contextual(field) or bool(getattr(self.tokenizers[field], "positioned", False))

    def new_offsets(self, fields: Iterable[str]) -> nn.ParameterDict:
        """What is added to the tokens of each field; in a space that a backbone brings along, and
        in front of a pretrained trunk, nothing, and it does not learn."""
        offsets = {f: nn.Parameter(torch.randn(self.width) * 0.02) for f in fields}
        for field, offset in offsets.items():
            if self.space_of(field) or (self.positioned(field) and not self.contextual(field)):
                offset.requires_grad_(False).zero_()
        return nn.ParameterDict(offsets)

    def new_groups(self, fields: Mapping[str, Modality]) -> nn.ParameterDict:
        """What is added to the tokens of each group of fields that have any, (groups, D)."""
        # a field may be of anything that has a tokenizer
        counts = {f: len(getattr(m, "token_groups", ())) for f, m in fields.items()}
        return nn.ParameterDict(
            {
                f: nn.Parameter(torch.randn(n, self.width) * 0.02)
                for f, n in counts.items()
                if n and not self.positioned(f)
            }
        )

    def prefix_tokens(self, field: str) -> int:
        """How many tokens a field's backbone puts before those of parts: a class token and
        registers."""
        body = getattr(self.tokenizers[field], "body", None)
        return int(getattr(body, "prefix_tokens", 0))

    def space_of(self, field: str) -> int:
        """Dimensions of the space that a field's backbone brings along, such as CLIP's; 0 for
        none."""
        if field not in self.tokenizers:
            return 0
        body: Any = getattr(self.tokenizers[field], "body", None)
        return int(body.width) if getattr(body, "is_space", False) else 0

    def pretrained(self, field: str) -> bool:
        """Whether the tokenizer of a field is a backbone that did not begin random on purpose."""
        body = getattr(self.tokenizers[field], "body", None)
        return self.contextual(field) and not getattr(body, "is_scratch", False)
