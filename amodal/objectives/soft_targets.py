"""Targets that are mixtures: a row belongs to each of K classes to some degree.

Gomez et al. 2017 (TextTopicNet), arXiv:1705.08631, section 3.2: a sigmoid for each class; or one
softmax over all.
"""

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, connected_zero, full_precision


@full_precision
def soft_sigmoid(logits_NK: Tensor, target_NK: Tensor) -> Tensor:
    """Mean over rows of -sum_k [t_k log s(o_k) + (1 - t_k) log(1 - s(o_k))], s the sigmoid; targets
    in 0 … 1.

    Without rows: 0, still connected. Raises ValueError for unequal shapes.
    """
    check_pair("soft_sigmoid", logits_NK, target_NK)
    if not len(logits_NK):
        return connected_zero(logits_NK)
    return (F.softplus(logits_NK) - target_NK * logits_NK).sum(1).mean()


@full_precision
def soft_softmax(logits_NK: Tensor, target_NK: Tensor) -> Tensor:
    """Mean over rows of -sum_k t_k log softmax(o)_k: the divergence from the targets, but for their
    entropy.

    Without rows: 0, still connected. Raises ValueError for unequal shapes.
    """
    check_pair("soft_softmax", logits_NK, target_NK)
    if not len(logits_NK):
        return connected_zero(logits_NK)
    return -(target_NK * F.log_softmax(logits_NK, dim=1)).sum(1).mean()
