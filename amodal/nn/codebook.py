"""Discrete codes of real-valued tokens: the number of the nearest of some centres."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from amodal.stats.kmeans import assign

SAMPLE = 100_000
"""Tokens that centres are fitted to, at most."""


class Codebook(nn.Module):
    """K centres of tokens.

    Until `fit` they are random, as those of a random-projection quantizer (Chiu et al. 2022,
    arXiv:2202.01855).

    Args:
        codes: K.
        width: P, numbers of a token.
    """

    centres: Tensor

    def __init__(self, codes: int, width: int):
        super().__init__()
        self.register_buffer("centres", torch.randn(codes, width))

    @torch.no_grad()
    def forward(self, x_TP: Tensor) -> Tensor:
        """(T,) int64: the code of each token."""
        return assign(x_TP.to(self.centres.dtype), self.centres)[0]

    def fit(self, tokens: Iterable[Tensor]) -> None:
        """Fit the centres by mini-batch k-means; fewer tokens than centres leave some unused.

        Args:
            tokens: Parts (T, P) of all there are. Of more than `SAMPLE` so many are drawn.
        """
        from sklearn.cluster import MiniBatchKMeans

        x_TP = sample(tokens, SAMPLE)
        if not len(x_TP):
            return
        count = min(len(self.centres), len(x_TP))
        clusters = MiniBatchKMeans(count, batch_size=max(1024, count), n_init=1, random_state=0)
        centres = torch.from_numpy(clusters.fit(x_TP.double().numpy()).cluster_centers_)
        # copies of the first are never the nearest by themselves
        rest = centres[:1].expand(len(self.centres) - count, -1)
        self.centres.copy_(torch.cat([centres, rest]))


def sample(parts: Iterable[Tensor], count: int) -> Tensor:
    """At most `count` rows of all parts (n, P), each as likely, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    chosen, keys = torch.zeros(0, 0), torch.zeros(0)
    for part in parts:
        part = part.detach().cpu()
        chosen = torch.cat([chosen, part]) if len(chosen) else part
        keys = torch.cat([keys, torch.rand(len(part), generator=generator)])
        if len(keys) > count:
            best = keys.topk(count).indices.sort().values
            chosen, keys = chosen[best], keys[best]
    return chosen
