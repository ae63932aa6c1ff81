"""The regression loss of data2vec. Baevski et al. 2022, arXiv:2202.03555, section 3.4."""

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import full_precision


@full_precision
def smooth_l1(prediction_TD: Tensor, target_TD: Tensor, *, beta: float) -> Tensor:
    """Mean over D of d^2 / (2 beta) where |d| <= beta and |d| - beta / 2 beyond, shape (T,).

    beta:  where squared error turns into absolute error; 0 is the absolute error throughout.

    Raises ValueError for unequal shapes and for a negative beta.
    """
    if prediction_TD.shape != target_TD.shape:
        raise ValueError(
            f"smooth_l1: prediction {tuple(prediction_TD.shape)} and target {tuple(target_TD.shape)} differ in shape."
        )
    if beta < 0:
        raise ValueError(f"beta must not be negative, got {beta}.")
    return F.smooth_l1_loss(prediction_TD, target_TD, reduction="none", beta=beta).mean(-1)
