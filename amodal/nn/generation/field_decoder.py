"""A field told token by token, and its end, from any number of lists of tokens.

The end is a chance of its own before each token, so p(token) = (1 - p(end)) p(token | it goes on):
together one softmax over ids and an end, for fields whose tokens are ids, and as good for those
whose tokens are not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from amodal.core import AmodalError, Column, Ragged
from amodal.modalities import Modality
from amodal.nn.generation.beam import beam_search
from amodal.nn.generation.multi_source_decoder import MultiSourceDecoder
from amodal.objectives.packed import row_index


class Writer(nn.Module):
    """modality: of what is told; decoder: options of `MultiSourceDecoder`."""

    def __init__(self, modality: Modality, width_in: int, *, width: int, sources: int, **decoder):
        super().__init__()
        self.modality = modality
        self.decoder = MultiSourceDecoder(width_in, width=width, sources=sources, **decoder)
        self.predictor, self.ends = modality.predictor(width), nn.Linear(width, 1)

    def forward(self, sources: Sequence[Ragged], content: Ragged, targets_T: Tensor) -> Tensor:
        """(N, 2): of each value the sum of the losses of its tokens and of its end, and their
        number. sources: of each, N lists of tokens (length, D); content: N lists of what the tokens
        to be told hold, and `targets_T`, end to end, what they are."""
        states = self.decoder(sources, content)
        last = torch.zeros(len(states.flat), dtype=torch.bool, device=targets_T.device)
        last[states.lengths.cumsum(0) - 1] = True
        end_T = self.ends(states.flat).squeeze(1)
        loss_T = binary_cross_entropy_with_logits(end_T, last.to(end_T.dtype), reduction="none")
        told_T = self.modality.token_loss(self.predictor(states.flat[~last]), targets_T)
        loss_T = loss_T.index_add(0, (~last).nonzero().squeeze(1), told_T.to(loss_T.dtype))
        both = torch.stack([loss_T, torch.ones_like(loss_T)], 1)
        return both.new_zeros(len(content), 2).index_add(0, row_index(states.lengths), both)

    @torch.no_grad()
    def write(
        self,
        sources: Sequence[Ragged],
        tokenizer: nn.Module,
        *,
        beams: int,
        longest: int,
        alpha: float,
    ):
        """N texts; the other arguments as in `beam_search`. Raises AmodalError unless the field is
        text with one id a token."""
        if not self.modality.takes_prompts or self.modality.patch > 1:
            raise AmodalError("what is written is text with one id a token (patch = 1)")

        decoding = self.decoder.begin(sources)

        def step(ids: Tensor, owner: Tensor, parent: Tensor) -> Tensor:
            last = None
            if ids.shape[1]:  # one id a token: what a token holds is a matter of its id alone
                rows = torch.arange(len(owner), device=owner.device)
                last = tokenizer(
                    Column(Ragged(ids[:, -1], torch.ones_like(owner)), rows), "text", len(owner)
                ).x
            state = decoding.step(last, owner, parent)
            end = self.ends(state)
            return torch.cat(
                [
                    self.predictor(state).squeeze(1).log_softmax(1) + logsigmoid(-end),
                    logsigmoid(end),
                ],
                1,
            )

        device = sources[0].lengths.device
        found = beam_search(
            step, len(sources[0]), beams=beams, longest=longest, alpha=alpha, device=device
        )
        return [
            self.modality.text(torch.tensor(ids, dtype=torch.int64).numpy()) for ids, _ in found
        ]


def every_row(column: Column, size: int) -> Ragged:
    """A list for each of `size` rows, empty for those that the column lacks. column: lists of
    tokens."""
    none = torch.zeros(size, dtype=torch.int64, device=column.rows.device)
    return Ragged(column.values.flat, none.index_copy(0, column.rows, column.values.lengths))


def decoded_from(lists: Sequence[Ragged]) -> Tensor:
    """(B,) bool: which rows have anything to be told from. lists: of each source, one for every
    row."""
    return torch.stack([s.lengths for s in lists]).sum(0) > 0
