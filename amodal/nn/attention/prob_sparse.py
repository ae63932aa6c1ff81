"""ProbSparse attention: only the queries that differ most from a uniform choice are answered.

Zhou, Zhang, Peng, Zhang, Li, Xiong and Zhang, AAAI 2021, arXiv:2012.07436 (Informer), section 3.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.masking.hashing import hash_bits


class ProbSparseAttention(nn.Module):
    """Attention of the u = factor ceil(ln L) queries with the largest max - sum / L of scores; the
    others get the mean value.

    The scores that decide are of u keys for each query, drawn once for all sequences of a length.

    Args:
        width: D.
        heads: They divide D.
        factor: Of the number of queries and keys.
        seed: Of the draws of keys.

    Raises:
        AmodalError: If the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, factor: int = 1, seed: int = 0):
        super().__init__()
        if width % heads:
            raise AmodalError(f"{heads} heads do not divide a width of {width}")
        self.heads, self.factor, self.seed = heads, factor, seed
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x_NLD: Tensor) -> Tensor:
        """(N, L, D) -> (N, L, D)."""
        length = x_NLD.shape[1]
        q, k, v = (
            part(x_NLD).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        count = min(length, self.factor * math.ceil(math.log(length)) if length > 1 else 1)
        drawn = sampled_keys(length, count, self.seed).to(x_NLD.device)
        some = torch.einsum("nhld,nhlsd->nhls", q, k[:, :, drawn])
        spread = some.amax(3) - some.sum(3) / length
        top = spread.topk(count, dim=2).indices[..., None].expand(-1, -1, -1, q.shape[3])
        score = q.gather(2, top) @ k.transpose(2, 3) / q.shape[3] ** 0.5
        mean = v.mean(2, keepdim=True).expand_as(v)
        y = mean.scatter(2, top, score.softmax(3) @ v)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


def sampled_keys(length: int, count: int, seed: int) -> Tensor:
    """(length, count) int64, the keys that are drawn for each query, with replacement."""
    query, number = torch.arange(length)[:, None], torch.arange(count)
    return hash_bits(torch.full((1, 1), seed), query, number).remainder(length)
