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
def masked_error(
    prediction_TP: Tensor,
    target_TP: Tensor,
    *,
    part_P: Tensor | None = None,
    square: bool = False,
    eps: float = 1e-6,
) -> Tensor:
    """Mean error of each token over its values, which are standardised part by part.

    With the pixels of related bands as a part, ratios of these bands stay in the target (MAESTRO,
    Labatie et al. 2025, arXiv:2508.10894); with all pixels as one part it is MAE's target.

    Args:
        prediction_TP: predicted values.
        target_TP: values; NaN marks one that does not exist, which takes no part in anything.
        part_P: (P,) int64, the part of each value, from 0: those of a part are standardised
            together to mean 0 and unbiased variance 1. None: values are compared as they are.
        square: squared error; else absolute.
        eps: added to the variance.

    Returns:
        (T,), 0 for a token without any value.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction_TP.shape != target_TP.shape or (
        part_P is not None and part_P.shape != target_TP.shape[-1:]
    ):
        parts = "" if part_P is None else f" and parts {tuple(part_P.shape)}"
        raise ValueError(
            f"masked_error: prediction {tuple(prediction_TP.shape)}, target "
            f"{tuple(target_TP.shape)}{parts} do not fit each other."
        )
    present, none = ~target_TP.isnan(), target_TP.new_zeros(())
    target = target_TP.where(present, none)
    if part_P is not None:
        target = _standardised(target, present, part_P, eps)
    error = (prediction_TP - target).where(present, none)
    error = error.square() if square else error.abs()
    return error.sum(-1) / present.sum(-1).clamp(min=1)


def _standardised(target_TP: Tensor, present_TP: Tensor, part_P: Tensor, eps: float) -> Tensor:
    count = int(part_P.max()) + 1 if len(part_P) else 0

    def total(values_TP: Tensor) -> Tensor:
        empty = values_TP.new_zeros(len(values_TP), count)
        return empty.index_add(1, part_P, values_TP)

    number_TG = total(present_TP.to(target_TP.dtype))
    mean_TG = total(target_TP) / number_TG.clamp(min=1)
    centred = (target_TP - mean_TG[:, part_P]).where(present_TP, target_TP.new_zeros(()))
    variance_TG = total(centred.square()) / (number_TG - 1).clamp(min=1)
    return centred / (variance_TG + eps).sqrt()[:, part_P]


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
