"""Cross-entropy under soft class targets.

Gomez et al. 2017 (TextTopicNet), arXiv:1705.08631, section 3.2: a sigmoid for each class; or one
softmax over all.
"""

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, connected_zero, full_precision


@full_precision
def soft_sigmoid(logits_NK: Tensor, target_NK: Tensor) -> Tensor:
    """Sum over classes of binary cross-entropies, s the sigmoid.

        L = mean_i -sum_k [t_k log s(o_k) + (1 - t_k) log(1 - s(o_k))]

    Args:
        logits_NK: o.
        target_NK: t in [0, 1].

    Returns:
        A scalar. Without rows: 0, connected to the logits.

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("soft_sigmoid", logits_NK, target_NK)
    if not len(logits_NK):
        return connected_zero(logits_NK)
    return (F.softplus(logits_NK) - target_NK * logits_NK).sum(1).mean()


@full_precision
def soft_softmax(logits_NK: Tensor, target_NK: Tensor) -> Tensor:
    """Cross-entropy of a softmax: the divergence from the targets plus their entropy.

        L = mean_i -sum_k t_k log softmax(o)_k

    Args:
        logits_NK: o.
        target_NK: t.

    Returns:
        A scalar. Without rows: 0, connected to the logits.

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("soft_softmax", logits_NK, target_NK)
    if not len(logits_NK):
        return connected_zero(logits_NK)
    return -(target_NK * F.log_softmax(logits_NK, dim=1)).sum(1).mean()
