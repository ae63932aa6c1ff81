"""Losses of masked models: squared error of values, cross-entropy of codes.

One loss a token; the caller averages over the masked tokens. He et al. 2021, arXiv:2111.06377,
section 3; Bao et al. 2021, arXiv:2106.08254.
"""

import torch
from torch import Tensor

from amodal.objectives.common import full_precision


@full_precision
def masked_mse(
    prediction_TP: Tensor, target_TP: Tensor, *, normalise: bool = True, eps: float = 1e-6
) -> Tensor:
    """Mean squared error of each token over its P values.

    Args:
        prediction_TP: predicted values.
        target_TP: values; NaN marks one that does not exist (a dead pixel, a missing sample). It
            leaves the mean and the normalisation, and its prediction gets no gradient.
        normalise: compare with the token's own values at mean 0 and variance 1 (MAE's patches,
            unbiased variance). Wrong for tokens of one value, whose target would always be 0.
        eps: added to the variance.

    Returns:
        (T,), 0 for a token without any value.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction_TP.shape != target_TP.shape:
        raise ValueError(
            f"masked_mse: prediction {tuple(prediction_TP.shape)} and target "
            f"{tuple(target_TP.shape)} differ in shape."
        )
    present = ~target_TP.isnan()
    count = present.sum(-1, keepdim=True)
    target = target_TP.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    if normalise:
        mean = target.sum(-1, keepdim=True) / count.clamp(min=1)
        centred = (target - mean).where(present, target.new_zeros(()))
        variance = centred.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)
        target = centred / (variance + eps).sqrt()
    error = (prediction_TP - target).where(present, target.new_zeros(()))
    return error.square().sum(-1) / count.squeeze(-1).clamp(min=1)


@full_precision
def masked_cross_entropy(logits_TC: Tensor, target_T: Tensor) -> Tensor:
    """Cross-entropy of each token.

    Args:
        logits_TC: scores of C codes.
        target_T: codes; negative for a missing one.

    Returns:
        (T,), 0 for a missing target.

    Raises:
        ValueError: there is not one target a token.
    """
    if logits_TC.shape[:-1] != target_T.shape:
        raise ValueError(
            f"masked_cross_entropy: logits {tuple(logits_TC.shape)} need targets "
            f"{tuple(logits_TC.shape[:-1])}, "
            f"got {tuple(target_T.shape)}."
        )
    picked = logits_TC.gather(-1, target_T.long().clamp(min=0).unsqueeze(-1)).squeeze(-1)
    loss = logits_TC.logsumexp(-1) - picked
    return loss.where(target_T >= 0, loss.new_zeros(()))
