"""Masked language modelling inside a pretrained text model: its own mask takes the place of words.

Devlin et al., NAACL 2019, arXiv:1810.04805, section 3.1: of the tokens that are drawn, 80 % become
the mask, 10 % another token, and 10 % stay as they are. The targets are the ids of the model's own
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amodal.core import AmodalError, Batch, Column, Ragged, Tokens, name_code
from amodal.masking.hashing import hash_bits, uniform
from amodal.methods.shared.matching import MaskedWords
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import token_column
from amodal.methods.shared.typed_parts import field_pool, text_modality
from amodal.nn.encoder import Encoder

MASKED, OTHER = 0.8, 0.9
"""Of a uniform draw, below which a token becomes the mask, and below which another token."""


class MaskedIds(MaskedWords):
    """Some ids of a text are hidden from its pretrained model, and predicted.

    Args:
        encoder: Of the fields.
        field: Whose ids are hidden; read by a text model of transformers with a mask.
        ratio: Share of ids hidden.
        method: Its name, for messages.

    Raises:
        AmodalError: For another backbone.
    """

    def __init__(self, encoder: Encoder, field: str, ratio: float = 0.15, *, method: str):
        nn.Module.__init__(self)
        body: Any = getattr(encoder.tokenizers[field], "body", None)
        mask = getattr(body, "mask_id", None)
        if mask is None or body.is_one_vector:
            raise AmodalError(
                f"{method} hides words from the backbone of {field!r}, which takes a text model of "
                "transformers with a mask token and a vector for each id, such as BERT or "
                f"RoBERTa (transformers:DIR); or leave the backbone out (--backbone {field}=tokens)"
            )
        self.field, self.ratio, self.whole_words, self.mask = field, ratio, False, mask
        self.vocab_size = text_modality(encoder, field).vocab_size
        self.predictor = nn.Sequential(
            nn.Linear(encoder.width, encoder.width),
            nn.GELU(),
            nn.LayerNorm(encoder.width),
            nn.Linear(encoder.width, self.vocab_size),
        )

    def content(self, encoder: Encoder, batch: Batch) -> Tokens:
        """The layout of the ids, x (T, 0); the model need not read them."""
        column = batch[self.field]
        assert isinstance(column.values, Ragged)
        flat = column.flat
        position = torch.zeros(len(flat), 3, device=flat.device)
        x_TD = torch.zeros(len(flat), 0, device=flat.device)
        lengths = column.values.lengths
        return Tokens.of(x_TD, column.rows, lengths, position, self.field, batch.size)

    def masked(self, batch: Batch, content: Tokens, hidden_T: Tensor) -> Batch:
        """The batch with its text alone, in which ids are hidden."""
        column = batch[self.field]
        assert isinstance(column.values, Ragged)
        seeds_T = hash_bits(batch.seeds, name_code(f"replaced {self.field}"))[content.row]
        draw_T, other_T = (uniform(seeds_T, content.within(), number) for number in (0, 1))
        other_T = (other_T * self.vocab_size).long()
        ids_T = torch.where(
            draw_T < MASKED, self.mask, torch.where(draw_T < OTHER, other_T, column.flat)
        )
        ids_T = torch.where(hidden_T, ids_T, column.flat)
        masked = Column(Ragged(ids_T, column.values.lengths), column.rows)
        return replace(batch, columns={self.field: masked})

    def forward(
        self,
        encoder: Encoder,
        batch: Batch,
        content: Tokens,
        seen: Column,
        cross: Callable[[Ragged, Ragged], Ragged],
    ) -> Column:
        """The losses of hidden ids, as of `MaskedWords`; content: of `content`."""
        hidden_T = self.draw(encoder, content, batch)
        context = alone(encoder, self.masked(batch, content, hidden_T))[self.field]
        words = token_column(field_pool(encoder, self.field).strip(context))
        return self.predict_hidden(encoder, words, hidden_T, batch[self.field].flat, seen, cross)

    def token_losses(self, encoder: Encoder, prediction: Tensor, target: Tensor) -> Tensor:
        """(t, 2): the loss of each hidden id, and 1."""
        loss_T = cross_entropy(prediction, target.long(), reduction="none")
        return torch.stack([loss_T, torch.ones_like(loss_T)], 1)


def masked_text(encoder: Encoder, field: str, ratio: float, *, method: str) -> MaskedWords:
    """Masked language modelling of a field: inside its pretrained model, if it has one."""
    if encoder.contextual(field):
        return MaskedIds(encoder, field, ratio, method=method)
    return MaskedWords(encoder, field, ratio, method=method)
