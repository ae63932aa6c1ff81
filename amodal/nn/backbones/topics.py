"""A topic model in the place of a text's network: one token, the mixture of its topics."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged, Tokens
from amodal.core.part import Part
from amodal.modalities import Modality
from amodal.modalities.shared.protocols import Readable
from amodal.nn.backbones.body import Body, ones_like_rows
from amodal.stats.topics import Topics


class TopicBody(Body):
    """Texts -> the mean of the posterior of each one's mixture (`amodal.stats.topics`).

    Args:
        modality: Whose values are text.
        topics: The model; what fits it fits it to all texts.
    """

    is_scratch = True

    def __init__(self, modality: Readable, topics: Topics):
        super().__init__()
        self.topics, self.width = topics, len(topics.weight)
        self.text: Callable[[Tensor], str] = lambda ids: modality.text(ids.cpu().numpy())

    def example(self) -> Ragged:
        """An empty text."""
        return Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))

    def forward(self, values: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N texts -> (N, K), rows sum to 1, lengths (N,), positions (N, 3)."""
        mixture_NK = self.topics(self.topics.count([self.text(ids) for ids in values.split()]))
        return mixture_NK, ones_like_rows(mixture_NK), mixture_NK.new_zeros(len(mixture_NK), 3)


class TopicTokens(Part):
    """A token a text, whose first K dimensions are its mixture and whose others are zero.

    Args:
        modality: Of the field.
        width: Of the tokens.
        topics, least, most, buckets: See `amodal.stats.topics.Topics`.

    Raises:
        AmodalError: For values that are no text, and for a width below the number of topics.
    """

    contextual, frozen, name, report = True, False, "a topic model", None

    def __init__(
        self,
        modality: Modality,
        width: int,
        *,
        topics: int,
        least: int,
        most: float,
        buckets: int,
    ):
        super().__init__()
        if not isinstance(modality, Readable):
            raise AmodalError(f"a topic model reads text, and this field is {modality.kind}")
        if topics > width:
            raise AmodalError(
                f"a text's vector has the encoder's width, {width}, which is no room for {topics} "
                "topics: take fewer topics or a larger --size"
            )
        model = Topics(topics, least=least, most=most, buckets=buckets)
        self.width, self.body = width, TopicBody(modality, model)

    @property
    def topics(self) -> Topics:
        """The topic model."""
        return self.body.topics

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """N texts -> tokens, x (N, width)."""
        mixture_NK, lengths, position = self.body(cast(Ragged, column.values))
        x_ND = nn.functional.pad(mixture_NK, (0, self.width - self.body.width))
        return Tokens.of(x_ND, column.rows, lengths, position, name, size)
