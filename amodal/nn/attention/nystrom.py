"""Attention through landmarks, linear in the number of tokens: Nystromformer.

Xiong, Zeng, Chakraborty, Tan, Fung, Li and Singh, AAAI 2021, arXiv:2102.03902, equations 13 and 14,
with the convolution over values of their section 3.4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from amodal.core import AmodalError


class NystromAttention(nn.Module):
    """softmax(Q K~^T) pinv(softmax(Q~ K~^T)) softmax(Q~ K^T) V, where ~ are landmarks.

    Landmarks are means of equal runs of tokens. A sequence whose length they do not divide gets
    zeros before it, which are attended to as well.

    Args:
        width: D.
        heads: They divide D.
        landmarks: How many.
        iterations: Of the pseudoinverse.
        kernel: Tokens of the convolution over values, an odd number; 0 for none.

    Raises:
        AmodalError: If the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, landmarks: int, iterations: int, kernel: int):
        super().__init__()
        if width % heads:
            raise AmodalError(f"{heads} heads do not divide a width of {width}")
        self.heads, self.landmarks, self.iterations = heads, landmarks, iterations
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.shortcut = (
            nn.Conv2d(heads, heads, (kernel, 1), padding=(kernel // 2, 0), groups=heads, bias=False)
            if kernel
            else None
        )

    def forward(self, x_NLD: Tensor) -> Tensor:
        """(N, L, D) -> (N, L, D); order matters, by the runs and by the convolution."""
        length = x_NLD.shape[1]
        run = -(-length // self.landmarks)
        x_NLD = pad(x_NLD, (0, 0, run * self.landmarks - length, 0))
        qkv = self.qkv(x_NLD).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * qkv.shape[-1] ** -0.5, qkv[1], qkv[2]
        q_mean, k_mean = (t.unflatten(2, (self.landmarks, run)).mean(3) for t in (q, k))
        rows, core, columns = (
            (a @ b.transpose(-1, -2)).softmax(-1)
            for a, b in ((q, k_mean), (q_mean, k_mean), (q_mean, k))
        )
        y = rows @ pseudoinverse(core, self.iterations) @ (columns @ v)
        if self.shortcut is not None:
            y = y + self.shortcut(v)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2)[:, -length:])
        return out


def pseudoinverse(matrix: Tensor, iterations: int) -> Tensor:
    """The Moore-Penrose inverse of each matrix, by an iteration of third order.

    The start is of each matrix alone (Xiong et al., section 3.3), so that no row of a batch
    changes another one's.

    Args:
        matrix: (..., M, M).
        iterations: About 6 for softmax matrices.
    """
    size = matrix.abs()
    norm = size.sum(-1).amax(-1) * size.sum(-2).amax(-1)
    z = matrix.transpose(-1, -2) / norm[..., None, None]
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(iterations):
        product = matrix @ z
        z = z @ (13 * unit - product @ (15 * unit - product @ (7 * unit - product))) / 4
    return z
