"""GRU and LSTM of PyTorch over the tokens of a field, from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from amodal.core import AmodalError, Column, Ragged
from amodal.core.host import host_copy
from amodal.nn.backbones.body import Body
from amodal.nn.backbones.options import read_options

KINDS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


@dataclass(frozen=True)
class RnnOptions:
    """Sizes of the network.

    Attributes:
        width: Of the states of a token, of both directions together.
        layers: One upon the other.
        directions: 2 reads from both ends, 1 from the start alone.
    """

    width: int = 128
    layers: int = 1
    directions: int = 2


class TokenField(Protocol):
    """What the body asks of a field: tokens of its values."""

    def tokenizer(self, width: int) -> nn.Module: ...
    def collate(self, values: list[object]) -> Ragged: ...


def build(library: str, rest: str, modality: TokenField) -> RnnBody:
    """The network of a spec.

    Args:
        library: gru or lstm.
        rest: Options, see `RnnOptions`.
        modality: Of the field.

    Raises:
        AmodalError: For wrong options.
    """
    options = read_options(library, rest, RnnOptions, {})
    if options.directions > 2 or options.width % options.directions:
        raise AmodalError(
            f"{library} has 1 direction, or 2 that share an even width, not "
            f"{options.directions} and a width of {options.width}"
        )
    return RnnBody(modality, KINDS[library], options)


class RnnBody(Body):
    """Values -> the state at each token of the field's own tokenizer.

    Args:
        modality: Of the field.
        kind: GRU or LSTM.
        options: Sizes.
    """

    is_scratch = True

    def __init__(
        self, modality: TokenField, kind: type[nn.GRU] | type[nn.LSTM], options: RnnOptions
    ):
        super().__init__()
        self.width, self.empty = options.width, modality.collate([]).flat
        self.tokenizer = modality.tokenizer(options.width)
        self.rnn = kind(
            options.width,
            options.width // options.directions,
            options.layers,
            batch_first=True,
            bidirectional=options.directions == 2,
        )

    def train(self, mode: bool = True) -> RnnBody:
        """See `torch.nn.Module`. The network has no dropout, and cuDNN has no gradient of one in
        evaluation mode, so it is always in training mode."""
        super().train(mode)
        self.rnn.train()
        return self

    def example(self) -> Ragged:
        """A value of one step, of zeros."""
        return Ragged(self.empty.new_zeros(1, *self.empty.shape[1:]), torch.tensor([1]))

    def forward(self, values: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N values -> (T, width), lengths (N,), positions (T, 3)."""
        n = len(values)
        rows = torch.arange(n, device=values.flat.device)
        tokens = self.tokenizer(Column(values, rows), "value", n)
        lengths = host_copy(tokens.lengths())
        padded = pad_sequence(list(torch.split(tokens.x, lengths.tolist())), batch_first=True)
        # packed, the backward direction starts at each end
        packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
        states_NLD, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        inside = torch.arange(states_NLD.shape[1]) < lengths.unsqueeze(1)
        return states_NLD[inside.to(states_NLD.device)], tokens.lengths(), tokens.position
