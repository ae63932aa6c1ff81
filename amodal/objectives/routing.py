"""Auxiliary losses of a mixture-of-experts router: balance, small logits, entropies of LIMoE.

Importance and load: Shazeer et al. 2017, arXiv:1701.06538, eq. 6-11, as in V-MoE (arXiv:2106.05974,
appendix A); z: Zoph et al. 2022, arXiv:2202.08906, eq. 5; local and global entropy: Mustafa et al.
2022 (LIMoE), arXiv:2206.02770, eq. 2-4.

Each loss is a function of sums over tokens. So a row sends only its own sums (`routing_sums`), and
the losses are those of the whole batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amodal.objectives.common import full_precision


@full_precision
def routing_sums(logits_TE: Tensor, row_T: Tensor, size: int) -> Tensor:
    """Sums over the tokens of each row that the losses below need.

    Args:
        logits_TE: the router's logits for E experts.
        row_T: int64, row of each token.
        size: number of rows.

    Returns:
        (size, 3 + 2E): number of tokens, sum of their entropies, sum of their squared
        log-partition functions; for each expert the sum of its probability, and the sum of its
        probability to win if the logits had noise of deviation 1 / E.
    """
    log_p = logits_TE.log_softmax(1)
    p = log_p.exp()
    short = (logits_TE.max(1, keepdim=True).values - logits_TE) * logits_TE.shape[1]
    terms = [
        torch.ones_like(p[:, :1]),
        -(p * log_p).sum(1, keepdim=True),
        logits_TE.logsumexp(1, keepdim=True).square(),
        p,
        torch.special.ndtr(-short),
    ]
    return logits_TE.new_zeros(size, 3 + 2 * logits_TE.shape[1]).index_add(
        0, row_T, torch.cat(terms, 1)
    )


@full_precision
def importance(sums: Tensor) -> Tensor:
    """Squared coefficient of variation of the experts' summed probabilities.

    Args:
        sums: (3 + 2E,), `routing_sums` added over rows, as in all functions below.
    """
    return _squared_variation(sums[3 : 3 + _experts(sums)])


@full_precision
def load(sums: Tensor) -> Tensor:
    """Squared coefficient of variation of the expected number of tokens of each expert."""
    return _squared_variation(sums[3 + _experts(sums) :])


@full_precision
def router_z(sums: Tensor) -> Tensor:
    """Mean over tokens of the squared log-partition function of the logits."""
    return sums[2] / sums[0].clamp(min=1)


@full_precision
def local_entropy(sums: Tensor) -> Tensor:
    """Mean entropy of a token's routing, in nats: low where the router is certain."""
    return sums[1] / sums[0].clamp(min=1)


@full_precision
def global_entropy(sums: Tensor, share: float) -> Tensor:
    """Penalty on a mean routing of low entropy.

        L = max(0, tau - H(mean routing)),  tau = log(share E)

    Zero if at least about that share of the E experts is used.

    Args:
        sums: (3 + 2E,).
        share: of the experts, 0 < share <= 1.

    Raises:
        ValueError: `share` is out of range.
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
