"""Discrete codes of real-valued tokens: the number of the nearest of some centres."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.stats.kmeans import assign

SAMPLE = 100_000
"""Tokens that kept for fitting centres, at most."""


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
        self.codes = codes
        self.register_buffer("centres", torch.randn(codes, width))

    @torch.no_grad()
    def forward(self, x_TP: Tensor) -> Tensor:
        """(T,) int64: the code of each token, by the numbers that it has; NaN is for none."""
        x_TP = x_TP.to(self.centres.dtype)
        known_TP = ~x_TP.isnan()
        if known_TP.all():
            return assign(x_TP, self.centres)[0]
        # squared distances over known numbers, without the part that all centres have
        far = known_TP.to(x_TP.dtype) @ self.centres.square().T
        return (far - 2 * x_TP.nan_to_num() @ self.centres.T).argmin(1)

    def fit(self, x_TP: Tensor) -> None:
        """Fit the centres by mini-batch k-means; fewer tokens than centres leave some unused.

        Of tokens with missing numbers (NaN) these are the mean, where too few tokens have all.
        """
        from sklearn.cluster import MiniBatchKMeans

        whole_T = ~x_TP.isnan().any(1)
        if int(whole_T.sum()) >= len(self.centres):
            x_TP = x_TP[whole_T]
        else:
            mean_P = x_TP.nanmean(0).nan_to_num()
            x_TP = torch.where(x_TP.isnan(), mean_P, x_TP)
        if not len(x_TP):
            return
        count = min(len(self.centres), len(x_TP))
        clusters = MiniBatchKMeans(count, batch_size=max(1024, count), n_init=1, random_state=0)
        centres = torch.from_numpy(clusters.fit(x_TP.double().numpy()).cluster_centers_)
        # copies of the first are never the nearest by themselves
        rest = centres[:1].expand(len(self.centres) - count, -1)
        self.centres.copy_(torch.cat([centres, rest]))


class TokenSample:
    """A sample of tokens that come in parts, each token as likely, on the CPU.

    Args:
        count: How many are kept at most.
    """

    def __init__(self, count: int = SAMPLE):
        self.count, self.tokens, self._keys = count, torch.zeros(0, 0), torch.zeros(0)
        self._generator = torch.Generator().manual_seed(0)

    def add(self, part_TP: Tensor) -> None:
        """Draw from some more tokens too."""
        part = part_TP.detach().cpu()
        self.tokens = torch.cat([self.tokens, part]) if len(self.tokens) else part
        keys = torch.rand(len(part), generator=self._generator)
        self._keys = torch.cat([self._keys, keys])
        if len(self._keys) > self.count:
            best = self._keys.topk(self.count).indices.sort().values
            self.tokens, self._keys = self.tokens[best], self._keys[best]
