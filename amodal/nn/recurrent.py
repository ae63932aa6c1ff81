"""Recurrent trunks, which read a sequence from both ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from amodal.core import AmodalError, Tokens
from amodal.nn.transformer import Collector, RouterLogits


class Recurrent(nn.Module):
    """Bidirectional GRUs (Cho et al. 2014, arXiv:1406.1078), half of the width for each direction.

    Every row, and within a row every source, is a sequence of its own. It takes the place of a
    `Transformer`.

    Args:
        width: D.
        depth: Layers.

    Raises:
        AmodalError: For an odd width.
    """

    def __init__(self, width: int, depth: int = 1):
        super().__init__()
        if width % 2:
            raise AmodalError(
                f"a bidirectional GRU shares its width between two directions; {width} is odd"
            )
        self.gru = nn.GRU(width, width // 2, depth, batch_first=True, bidirectional=True)

    def forward(
        self,
        tokens: Tokens,
        collector: Collector | None = None,
        router_logits: RouterLogits | None = None,
    ) -> Tokens:
        """Tokens -> tokens of the same width. The other arguments are for transformers.

        Raises:
            AmodalError: For a collector.
        """
        refuse_collector(collector, "a recurrent trunk")
        if not len(tokens):
            return without_tokens(self, tokens)
        padded, lengths = padded_sequences(tokens, tokens.x)
        # torch takes these lengths on the CPU alone; packed, the backward direction starts at each
        # end
        packed = pack_padded_sequence(padded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states_NLD, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        real = torch.arange(states_NLD.shape[1], device=lengths.device) < lengths.unsqueeze(1)
        return tokens.with_x(states_NLD[real])


class Brnn(nn.Module):
    """Two plain recurrences with relu, one from each end.

    Karpathy and Fei-Fei 2015, arXiv:1412.2306, eq. 2-6: e_t = relu(W_e x_t + b_e), h_t = relu(e_t +
    W_f h_{t-1} + b_f) and the same from the end, s_t = relu(W_d (h_t + h'_t) + b_d).

    Args:
        width: D.
    """

    def __init__(self, width: int):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.forward_step, self.backward_step = nn.Linear(width, width), nn.Linear(width, width)

    def forward(
        self,
        tokens: Tokens,
        collector: Collector | None = None,
        router_logits: RouterLogits | None = None,
    ) -> Tokens:
        """See `Recurrent.forward`."""
        refuse_collector(collector, "a recurrent trunk")
        e_TD = self.in_proj(tokens.x).relu()
        if not len(tokens):
            return tokens.with_x(
                self.out_proj(self.forward_step(e_TD) + self.backward_step(e_TD)).relu()
            )
        e_NLD, lengths = padded_sequences(tokens, e_TD)
        last = lengths[:, None] - 1
        place = torch.arange(e_NLD.shape[1], device=lengths.device)
        # each sequence from its end; what pads it stays behind it
        turn = torch.where(place <= last, last - place, place)[:, :, None].expand_as(e_NLD)
        forth, back = (
            _recur(self.forward_step, e_NLD),
            _recur(self.backward_step, e_NLD.gather(1, turn)).gather(1, turn),
        )
        return tokens.with_x(self.out_proj(forth + back).relu()[place <= last])


def _recur(step: nn.Linear, e_NLD: Tensor) -> Tensor:
    h, states = torch.zeros_like(e_NLD[:, 0]), []
    for e in e_NLD.unbind(1):
        h = (e + step(h)).relu()
        states.append(h)
    return torch.stack(states, 1)


def refuse_collector(collector: Collector | None, trunk: str) -> None:
    """Raise an AmodalError for a collector, which a trunk that is no transformer does not serve."""
    if collector is not None:
        raise AmodalError(
            f"this method reads the blocks of a transformer, which {trunk} does not have"
        )


def without_tokens(trunk: nn.Module, tokens: Tokens) -> Tokens:
    """No tokens, of which all parameters are part of the graph: ranks without such tokens need
    these too."""
    return tokens.with_x(tokens.x + 0 * sum(p.sum() for p in trunk.parameters()))


def padded_sequences(tokens: Tokens, x_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of tokens, at least one, as sequences (N, L, D) with zeros behind, and lengths (N,).

    Args:
        tokens: Each row, and within it each source, is a sequence.
        x_TD: A vector of each.
    """
    lengths = sequence_lengths(tokens)
    return pad_sequence(list(x_TD.split(lengths.tolist())), batch_first=True), lengths


def sequence_lengths(tokens: Tokens) -> Tensor:
    """(N,) the lengths of the runs of one row and one source, which stand one after another."""
    key = tokens.row * len(tokens.names) + tokens.source
    out: Tensor = torch.unique_consecutive(key, return_counts=True)[1]
    return out
