"""What keeps a router of experts in order: balance, small logits, and the entropies of LIMoE.

Importance and load: Shazeer et al. 2017, arXiv:1701.06538, eq. 6-11, as in V-MoE (arXiv:2106.05974,
appendix A); z: Zoph et al. 2022, arXiv:2202.08906, eq. 5; local and global entropy: Mustafa et al.
2022 (LIMoE), arXiv:2206.02770, eq. 2-4.

Each is a function of sums over tokens. So a row sends only its own sums (`routing_sums`), and the
losses are those of the whole batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amodal.objectives.common import full_precision


@full_precision
def routing_sums(logits_TE: Tensor, row_T: Tensor, size: int) -> Tensor:
    """(size, 3 + 2E): of each row's tokens the number, the sums of their entropies and squared
    log-partition functions, and for each expert the sums of its probability and of its chance to
    win, were the logits drawn again with noise of deviation 1 / E.

    logits_TE: a router's; row_T: int64, which row a token is of.
    """
    log_p = logits_TE.log_softmax(1)
    p = log_p.exp()
    short = (logits_TE.max(1, keepdim=True).values - logits_TE) * logits_TE.shape[1]
    each = [
        torch.ones_like(p[:, :1]),
        -(p * log_p).sum(1, keepdim=True),
        logits_TE.logsumexp(1, keepdim=True).square(),
        p,
        torch.special.ndtr(-short),
    ]
    return logits_TE.new_zeros(size, 3 + 2 * logits_TE.shape[1]).index_add(
        0, row_T, torch.cat(each, 1)
    )


@full_precision
def importance(sums: Tensor) -> Tensor:
    """Squared coefficient of variation of the experts' summed probabilities. sums: (3 + 2E,), like
    in all that follow."""
    return _squared_variation(sums[3 : 3 + _experts(sums)])


@full_precision
def load(sums: Tensor) -> Tensor:
    """Squared coefficient of variation of the number of tokens that each expert would win under
    noise."""
    return _squared_variation(sums[3 + _experts(sums) :])


@full_precision
def router_z(sums: Tensor) -> Tensor:
    """The mean over tokens of the squared log-partition function of the logits."""
    return sums[2] / sums[0].clamp(min=1)


@full_precision
def local_entropy(sums: Tensor) -> Tensor:
    """The mean entropy of a token's routing, in nats: low where the router is sure."""
    return sums[1] / sums[0].clamp(min=1)


@full_precision
def global_entropy(sums: Tensor, share: float) -> Tensor:
    """max(0, tau - H(mean routing)), tau = log(share * E): nothing to pay as long as about that
    share of the E experts is used.

    Raises ValueError unless 0 < share <= 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is of the experts, above 0 and at most 1, got {share}.")
    mean = sums[3 : 3 + _experts(sums)] / sums[0].clamp(min=1)
    tau = max(math.log(share * _experts(sums)), 0.0)
    # without a token there is no distribution; its gradient stays finite
    return (tau + torch.xlogy(mean, mean.clamp(min=1e-30)).sum()).clamp(min=0) * (sums[0] > 0)


def _experts(sums: Tensor) -> int:
    return (len(sums) - 3) // 2


def _squared_variation(total_E: Tensor) -> Tensor:
    mean = total_E.mean()
    return (total_E - mean).square().mean() / mean.square().clamp(min=1e-12)
