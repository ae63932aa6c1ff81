"""Attention over a grid of channels and places by two small ones, whose matrices are never
multiplied out.

LESS attention, Si et al. 2025, arXiv:2503.12843: with A_c the attention of C channels and A_s that
of N places, cells attend by the Kronecker product of A_c and A_s, a matrix of C N x C N. It is
applied to values that are outer products themselves, so (A_c x A_s)(v_c x v_s) = A_c v_c x A_s v_s
needs C^2 + N^2 weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.nn.attention.varlen import Layout, attend

EPS = 1e-6
"""Of the norms."""
KERNEL = 8
"""Kernels for half precision read heads of multiples of so many dimensions."""


class AxisAttention(nn.Module):
    """Attention among the channels, or the places, of a row, of more than one rank.

    Args:
        width: w of the tokens.
        heads: H, which divide w.
        rank: Matrices of attention of each head, R, with the same values.
    """

    def __init__(self, width: int, heads: int, rank: int = 1):
        super().__init__()
        self.heads, self.rank = heads, rank
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.qk, self.v = nn.Linear(width, 2 * width * rank), nn.Linear(width, width)

    def forward(self, x_Sw: Tensor, layout: Layout) -> Tensor:
        """(S, w) -> (S, H, R, w / H). layout: who attends to whom."""
        x_Sw = self.norm(layout.enter(x_Sw))
        q, k = self.qk(x_Sw).unflatten(1, (2, self.heads * self.rank, -1)).unbind(1)
        v = self.v(x_Sw).unflatten(1, (self.heads, 1, -1)).expand(-1, -1, self.rank, -1)
        width = q.shape[2]
        q, k, v = _padded(q, k, v.flatten(1, 2))
        mixed = layout.leave(attend(q, k, v, layout))[..., :width]
        by_rank: Tensor = mixed.unflatten(1, (self.heads, self.rank))
        return by_rank


def _padded(*parts: Tensor) -> list[Tensor]:
    """Queries, keys and values of narrow heads as kernels for half precision read them."""
    width, half = parts[0].shape[2], parts[0].dtype in (torch.bfloat16, torch.float16)
    if not (half and parts[0].is_cuda) or not width % KERNEL:
        return [*parts]
    more = -width % KERNEL
    padded = [nn.functional.pad(part, (0, more)) for part in parts]
    # attention divides by the root of the width that it sees
    padded[0] = padded[0] * ((width + more) / width) ** 0.5
    return padded


class KroneckerAttention(nn.Module):
    """What cells of a grid read of all others of their row.

    Args:
        width: D of the cells.
        heads: H.
        channel_width: d_c of a head, of channels; it divides D / H, and d_s = D / (H d_c) is that
            of places.
        rank: How many Kronecker products are added up.

    Raises:
        ValueError: For a width that does not divide.
    """

    def __init__(self, width: int, heads: int, channel_width: int, rank: int = 1):
        super().__init__()
        if width % heads or (width // heads) % channel_width:
            raise ValueError(f"{channel_width} does not divide {width} / {heads}, the head's width")
        self.channel_width, self.place_width = channel_width, width // heads // channel_width
        self.channels = AxisAttention(heads * self.channel_width, heads, rank)
        self.places = AxisAttention(heads * self.place_width, heads, rank)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        channel_Sw: Tensor,
        place_Sw: Tensor,
        layouts: tuple[Layout, Layout],
        channel_G: Tensor,
        place_G: Tensor,
    ) -> Tensor:
        """What the cells read.

        Args:
            channel_Sw: (C, H d_c), the channels of all rows.
            place_Sw: (N, H d_s), their places.
            layouts: Of channels and of places.
            channel_G, place_G: (G,) int64, those of each cell.

        Returns:
            (G, D).
        """
        channel_CHRd = self.channels(channel_Sw, layouts[0])
        place_NHRd = self.places(place_Sw, layouts[1])
        # the sum over ranks of outer products, of the cells that there are
        mixed = channel_CHRd[channel_G].transpose(2, 3) @ place_NHRd[place_G]
        out: Tensor = self.out(mixed.flatten(1))
        return out


class AxisPool(nn.Module):
    """Cells of each channel, or each place, as one vector: by attention of its class token.

    The class token itself, projected, and what it reads of all cells of its line.

    Args:
        width: D of the cells.
        out_width: w.
        heads: H, which divide w.
    """

    def __init__(self, width: int, out_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.project, self.norm = nn.Linear(width, out_width), nn.LayerNorm(out_width, eps=EPS)
        self.q, self.kv = nn.Linear(out_width, out_width), nn.Linear(out_width, 2 * out_width)
        self.out = nn.Linear(out_width, out_width)

    def forward(self, x_GD: Tensor, line_G: Tensor, class_S: Tensor) -> Tensor:
        """Pool.

        Args:
            x_GD: Cells, class tokens among them.
            line_G: (G,) int64, the channel, or the place, of each.
            class_S: (S,) int64, where the class token of each line is among the cells.

        Returns:
            (S, w).
        """
        x_Gw = self.project(x_GD)
        normed_Gw = self.norm(x_Gw)
        k, v = self.kv(normed_Gw).unflatten(1, (2, self.heads, -1)).unbind(1)
        q = self.q(normed_Gw[class_S]).unflatten(1, (self.heads, -1)) * k.shape[2] ** -0.5
        weight_GH = line_softmax((q[line_G] * k).sum(2), line_G, len(class_S))
        read_Sw = x_Gw.new_zeros(len(class_S), x_Gw.shape[1], dtype=v.dtype).index_add(
            0, line_G, (v * weight_GH.unsqueeze(2).to(v.dtype)).flatten(1)
        )
        pooled: Tensor = x_Gw[class_S] + self.out(read_Sw)
        return pooled


def line_softmax(score_GH: Tensor, line_G: Tensor, lines: int) -> Tensor:
    """(G, H), the softmax over the cells of each line.

    Args:
        score_GH: (G, H).
        line_G: (G,) int64.
        lines: How many.
    """
    # the maximum keeps exp in range; the softmax does not depend on it
    score_GH = score_GH.float() if score_GH.dtype != torch.float64 else score_GH
    index = line_G.unsqueeze(1).expand_as(score_GH)
    peak = score_GH.new_full((lines, score_GH.shape[1]), -torch.inf)
    peak = peak.scatter_reduce(0, index, score_GH.detach(), "amax")
    weight = (score_GH - peak[line_G]).exp()
    total = weight.new_zeros(lines, weight.shape[1]).index_add(0, line_G, weight)
    return weight / total[line_G]
