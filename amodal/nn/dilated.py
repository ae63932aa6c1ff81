"""A trunk of dilated convolutions along a sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from amodal.core import Tokens
from amodal.nn.recurrent import padded_sequences, refuse_collector, without_tokens
from amodal.nn.transformer import Collector, RouterLogits


class Dilated(nn.Module):
    """Residual blocks of two convolutions, whose dilation doubles from block to block.

    The encoder of TS2Vec (Yue et al. 2022, arXiv:2106.10466): after `depth` blocks one more ends
    the trunk, with a linear map as its shortcut. Every row, and within a row every source, is a
    sequence of its own; what lies outside of it is zero before each convolution. It takes the place
    of a `Transformer`.

    Args:
        width: D.
        depth: Blocks before the last one.
        kernel: Tokens of a convolution, an odd number.
    """

    def __init__(self, width: int, depth: int = 10, kernel: int = 3):
        super().__init__()
        self.blocks = nn.ModuleList(DilatedBlock(width, kernel, 2**i) for i in range(depth + 1))
        self.shortcut = nn.Linear(width, width)

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
        refuse_collector(collector, "a trunk of convolutions")
        if not len(tokens):
            return without_tokens(self, tokens)
        x_NLD, lengths = padded_sequences(tokens, tokens.x)
        inside_NL = torch.arange(x_NLD.shape[1], device=lengths.device) < lengths.unsqueeze(1)
        x_NDL, inside = x_NLD.transpose(1, 2), inside_NL.unsqueeze(1).to(x_NLD.dtype)
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            around = x_NDL
            if i == last:
                around = self.shortcut(x_NDL.transpose(1, 2)).transpose(1, 2)
            x_NDL = around + block(x_NDL, inside)
        return tokens.with_x(x_NDL.transpose(1, 2)[inside_NL])


class DilatedBlock(nn.Module):
    """Two convolutions of one dilation, each after a GELU, without the shortcut.

    Args:
        width: D.
        kernel: Tokens of a convolution.
        dilation: Tokens between its taps.
    """

    def __init__(self, width: int, kernel: int, dilation: int):
        super().__init__()
        around = dilation * (kernel // 2)
        self.first, self.second = (
            nn.Conv1d(width, width, kernel, padding=around, dilation=dilation) for _ in range(2)
        )

    def forward(self, x_NDL: Tensor, inside_N1L: Tensor) -> Tensor:
        """(N, D, L), 1 where a token is and else 0 (N, 1, L) -> (N, D, L)."""
        hidden_NDL = convolved(self.first, gelu(x_NDL) * inside_N1L)
        return convolved(self.second, gelu(hidden_NDL) * inside_N1L) * inside_N1L


def convolved(conv: nn.Conv1d, x_NDL: Tensor) -> Tensor:
    """(N, D, L) -> (N, D, L), as `conv` gives it."""
    if conv.dilation[0] < x_NDL.shape[2]:
        out: Tensor = conv(x_NDL)
        return out
    # all taps but the middle one lie outside of every sequence, where there is only zero
    middle = conv.weight[:, :, conv.kernel_size[0] // 2]
    return linear(x_NDL.transpose(1, 2), middle, conv.bias).transpose(1, 2)
