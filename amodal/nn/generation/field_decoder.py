"""A field predicted token by token, and its end, from any number of lists of tokens.

The end has a probability of its own before each token, so p(token) = (1 - p(end)) p(token | it goes
on). For fields whose tokens are ids that is one softmax over ids and an end; it also works where
tokens are no ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear, logsigmoid

from amodal.core import AmodalError, Column, Ragged
from amodal.modalities import Modality
from amodal.nn.generation.beam import beam_search
from amodal.nn.generation.multi_source_decoder import MultiSourceDecoder
from amodal.objectives.packed import row_index


class TextField(Protocol):
    """What writing asks of a modality of text."""

    @property
    def patch(self) -> int:
        """Ids of a token."""
        ...

    def text(self, ids: npt.NDArray[np.integer[Any]]) -> str:
        """The text of some ids."""
        ...


def _text(modality: Modality) -> TextField:
    return cast(TextField, modality)


class FieldDecoder(nn.Module):
    """A decoder with the output layers of a modality.

    Args:
        modality: Of the field that is predicted.
        width_in: Of all tokens that enter.
        width: Of the states.
        sources: How many lists are read.
        tied: For the embeddings of how many ids, which are passed to `forward` and `write`, take
            the place of the last layer; 0 for a layer of its own.
        decoder: Other options of `MultiSourceDecoder`.
    """

    def __init__(
        self,
        modality: Modality,
        width_in: int,
        *,
        width: int,
        sources: int,
        tied: int = 0,
        **decoder: Any,
    ):
        super().__init__()
        self.modality = modality
        self.decoder = MultiSourceDecoder(width_in, width=width, sources=sources, **decoder)
        self.predictor = TiedPredictor(tied) if tied else modality.predictor(width)
        self.ends = nn.Linear(width, 1)

    def _predictor(self, embedding_VD: Tensor | None) -> Callable[[Tensor], Tensor]:
        predictor = self.predictor
        return predictor if embedding_VD is None else lambda state: predictor(state, embedding_VD)

    def forward(
        self,
        sources: Sequence[Ragged],
        content: Ragged,
        targets_T: Tensor,
        *,
        embedding_VD: Tensor | None,
        seeds_N: Tensor,
        dropout: float,
    ) -> Tensor:
        """The loss of each value.

        Args:
            sources: Of each, N lists of tokens (length, width_in).
            content: N lists of what the tokens to be predicted hold.
            targets_T: What they are, end to end.
            embedding_VD: Of a tied decoder, else None.
            seeds_N: See `MultiSourceDecoder.forward`.
            dropout: Its rate.

        Returns:
            (N, 2): of each value the sum of the losses of its tokens and of its end, and their
            number.
        """
        states = self.decoder(sources, content, seeds_N, dropout)
        predictor = self._predictor(embedding_VD)
        return value_losses(states, targets_T, self.modality, predictor, self.ends)

    @torch.no_grad()
    def write(
        self,
        sources: Sequence[Ragged],
        tokenizer: nn.Module,
        *,
        beams: int,
        longest: int,
        alpha: float,
        embedding_VD: Tensor | None,
    ) -> list[str]:
        """A text for each row.

        Args:
            sources: Of each, N lists of tokens (length, width_in).
            tokenizer: Of the field.
            embedding_VD: Of a tied decoder, else None.
            beams, longest, alpha: See `beam_search`.

        Raises:
            AmodalError: Unless the field is text with one id a token.
        """
        if not can_be_written(self.modality):
            raise AmodalError("only text with one id a token (patch = 1) can be written")

        decoding, predictor = self.decoder.begin(sources), self._predictor(embedding_VD)

        def step(ids: Tensor, owner: Tensor, parent: Tensor) -> Tensor:
            last = None
            if ids.shape[1]:  # one id a token: what a token holds is a matter of its id alone
                rows = torch.arange(len(owner), device=owner.device)
                last = tokenizer(
                    Column(Ragged(ids[:, -1], torch.ones_like(owner)), rows), "text", len(owner)
                ).x
            state = decoding.step(last, owner, parent)
            return next_scores(state, predictor, self.ends)

        device = sources[0].lengths.device
        texts = beam_search(
            step, len(sources[0]), beams=beams, longest=longest, alpha=alpha, device=device
        )
        return [text_of(self.modality, ids) for ids, _ in texts]


class TiedPredictor(nn.Module):
    """Logits of ids by their embeddings (Vaswani et al. 2017, 3.4), and a bias.

    Embeddings enter as they are and are divided by the root of their width here, which is the
    paper's, where they are multiplied by it there.

    Args:
        ids: How many.
    """

    def __init__(self, ids: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(ids))

    def forward(self, state_TD: Tensor, embedding_VD: Tensor) -> Tensor:
        """(T, 1, ids) logits."""
        weight = embedding_VD[: len(self.bias)] / embedding_VD.shape[1] ** 0.5
        return linear(state_TD, weight, self.bias).unsqueeze(1)


def value_losses(
    states: Ragged,
    targets_T: Tensor,
    modality: Modality,
    predictor: Callable[[Tensor], Tensor],
    ends: nn.Module,
) -> Tensor:
    """The loss of each value, from the states before its tokens and after the last.

    Args:
        states: N lists (length + 1, width).
        targets_T: What the tokens are, end to end.
        modality: Of the values.
        predictor: Of the modality, (t, width) -> predictions.
        ends: (t, width) -> (t, 1) logits of the end.

    Returns:
        (N, 2): of each value the sum of the losses of its tokens and of its end, and their number.
    """
    last = torch.zeros(len(states.flat), dtype=torch.bool, device=targets_T.device)
    last[states.lengths.cumsum(0) - 1] = True
    end_T = ends(states.flat).squeeze(1)
    loss_T = binary_cross_entropy_with_logits(end_T, last.to(end_T.dtype), reduction="none")
    token_loss_T = modality.token_loss(predictor(states.flat[~last]), targets_T)
    # each state says whether the value ends here; all but the last also predict a token
    loss_T = loss_T.index_add(0, (~last).nonzero().squeeze(1), token_loss_T.to(loss_T.dtype))
    both = torch.stack([loss_T, torch.ones_like(loss_T)], 1)
    return both.new_zeros(len(states), 2).index_add(0, row_index(states.lengths), both)


def next_scores(state_MD: Tensor, predictor: Callable[[Tensor], Tensor], ends: nn.Module) -> Tensor:
    """(M, A + 1) log probabilities of the next id, and of the end, of M texts.

    Args:
        state_MD: Before the next token.
        predictor, ends: As of `value_losses`, of text with one id a token.
    """
    end = ends(state_MD)
    # log p(id) = log(1 - p(end)) + log p(id | it goes on), and log p(end) as the last entry
    ids = predictor(state_MD).squeeze(1).log_softmax(1) + logsigmoid(-end)
    return torch.cat([ids, logsigmoid(end)], 1)


def can_be_written(modality: Modality) -> bool:
    """Whether values are text with one id a token."""
    return modality.takes_prompts and _text(modality).patch == 1


def text_of(modality: Modality, ids: Sequence[int]) -> str:
    """The text of some ids."""
    return _text(modality).text(torch.tensor(ids, dtype=torch.int64).numpy())


def every_row(column: Column, size: int) -> Ragged:
    """A list for each of `size` rows, empty for rows that the column lacks.

    Args:
        column: N lists of tokens.
        size: B.
    """
    none = torch.zeros(size, dtype=torch.int64, device=column.rows.device)
    assert isinstance(column.values, Ragged)
    return Ragged(column.values.flat, none.index_copy(0, column.rows, column.values.lengths))


def decoded_from(lists: Sequence[Ragged]) -> Tensor:
    """(B,) bool: which rows have any token to be predicted from.

    Args:
        lists: Of each source, a list for each of B rows.
    """
    return torch.stack([s.lengths for s in lists]).sum(0) > 0
