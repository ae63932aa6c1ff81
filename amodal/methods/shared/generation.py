"""Decoders of values, token by token, from one vector: what generative pages share."""

from __future__ import annotations

from torch import Tensor, nn

from amodal.core import Column, Ragged, Tokens, field_of
from amodal.methods.shared.shapes import refuse_backbones, row_losses
from amodal.nn.encoder import Encoder
from amodal.nn.generation.causal import CausalDecoder


class FieldDecoders(nn.Module):
    """For each field a causal decoder and the predictor of its tokens.

    A function of single rows, so for `features`.

    Args:
        encoder: Of the fields.
        width: Of the decoders.
        depth: Blocks of a decoder.
        heads: Of its attention.

    Raises:
        AmodalError: For backbones whose tokens have already seen each other.
    """

    def __init__(self, encoder: Encoder, *, width: int, depth: int, heads: int):
        super().__init__()
        refuse_backbones(encoder, "mlem", "they give away the values that are to be generated")
        made = {
            f: CausalDecoder(encoder.width, width=width, depth=depth, heads=heads)
            for f in encoder.fields
        }
        self.decoders = nn.ModuleDict(made)
        self.predictors = nn.ModuleDict({f: m.predictor(width) for f, m in encoder.fields.items()})

    def forward(
        self, encoder: Encoder, vectors: Column, content: Tokens, values: Tensor | Ragged
    ) -> Column:
        """The losses of reconstructing the values of one source.

        Args:
            encoder: Of the fields.
            vectors: (N, D) to reconstruct from.
            content: The tokens of the values, of `Encoder.patchify`.
            values: The values.

        Returns:
            (N, 2): the sum of the losses of a row's tokens, and their number (`token_mean` ends
            it).
        """
        field = field_of(content.names[0])
        predicted = self.predictors[field](self.decoders[field](vectors, content).x)
        modality = encoder.fields[field]
        return row_losses(modality.token_loss(predicted, modality.targets(values)), content)
