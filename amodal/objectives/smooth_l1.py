"""The regression loss of data2vec.

Baevski et al., ICML 2022, arXiv:2202.03555, section 3.4.
"""

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import full_precision


@full_precision
def smooth_l1(prediction_TD: Tensor, target_TD: Tensor, *, beta: float) -> Tensor:
    """Huber-like loss of each token, the mean over its D values; d is the difference.

        L = mean_D ( d^2 / (2 beta) if |d| <= beta else |d| - beta / 2 )

    Args:
        prediction_TD: predictions.
        target_TD: targets.
        beta: where squared error becomes absolute error; 0 is absolute error everywhere.

    Returns:
        (T,)

    Raises:
        ValueError: the shapes differ, or `beta` is negative.
    """
    if prediction_TD.shape != target_TD.shape:
        raise ValueError(
            f"smooth_l1: prediction {tuple(prediction_TD.shape)} and target "
            f"{tuple(target_TD.shape)} differ in shape."
        )
    if beta < 0:
        raise ValueError(f"beta must not be negative, got {beta}.")
    return F.smooth_l1_loss(prediction_TD, target_TD, reduction="none", beta=beta).mean(-1)
