"""Imputation of the vectors of absent fields, for encoders that cannot do without them.

- drop: nothing is imputed, a record is what its other fields make;
- mean: the mean of the field's training vectors;
- retrieve: the vector of the training record that is nearest by the fields that are present;
- predict: ridge regression from the vectors of the fields that are present.

All in the aligned space, on unit vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from amodal.core import row_seeds
from amodal.evaluate.missing_modalities import FieldVectors, ProbeEvaluator, fill_nan
from amodal.masking.hashing import uniform
from amodal.stats.logistic import Scaled

STRATEGIES = ("drop", "mean", "retrieve", "predict")
PENALTIES = torch.logspace(-2, 4, 7)
MAX_SIMILARITIES = 2**23
MIN_DONORS = 10
"""Training records with both fields, below which the mean is imputed."""


def vectors(strategy: str, train: FieldVectors, x: FieldVectors, visible_NS: Tensor) -> Tensor:
    """One vector for each record, with its absent fields imputed.

    Args:
        strategy: One of `STRATEGIES`.
        train: Records that values are imputed from.
        x: N records.
        visible_NS: bool, which of their fields are visible.

    Returns:
        (N, D): for "drop" the encoder's own fusion, NaN without a visible field; else the mean over
        all fields.
    """
    if strategy == "drop":
        return x.fused(visible_NS)
    return imputed(strategy, train, x.x, visible_NS).mean(1)


def imputed(strategy: str, train: FieldVectors, x_NSD: Tensor, visible_NS: Tensor) -> Tensor:
    """Impute the hidden fields.

    Args:
        strategy: "mean", "retrieve" or "predict".
        train: Records that values are imputed from.
        x_NSD: Vectors of all fields.
        visible_NS: bool, which of them are visible.

    Returns:
        (N, S, D). A field that no training record has stays zero.
    """
    means = train.x.sum(0) / train.present.sum(0).clamp_min(1).unsqueeze(1)
    out = torch.where(visible_NS.unsqueeze(2), x_NSD, means)
    if strategy == "mean":
        return out
    for pattern in torch.unique(visible_NS, dim=0):
        if pattern.all() or not pattern.any():
            continue
        records = (visible_NS == pattern).all(1).nonzero().squeeze(1)
        query = x_NSD[records][:, pattern].flatten(1)
        complete = train.present[:, pattern].all(1)
        for field in (~pattern).nonzero().squeeze(1).tolist():
            donors = (complete & train.present[:, field]).nonzero().squeeze(1)
            if len(donors) < MIN_DONORS:
                continue
            inputs, targets = train.x[donors][:, pattern].flatten(1), train.x[donors, field]
            out[records, field] = IMPUTERS[strategy](query, inputs, targets)
    return out


def nearest(query_MP: Tensor, input_NP: Tensor, target_ND: Tensor) -> Tensor:
    """(M, D): the target of the input with the largest sum of cosines over the common fields."""
    parts = torch.split(query_MP, max(1, MAX_SIMILARITIES // len(input_NP)))
    return target_ND[torch.cat([(part @ input_NP.T).argmax(1) for part in parts])]


def ridge(query_MP: Tensor, input_NP: Tensor, target_ND: Tensor) -> Tensor:
    """(M, D): linear regression. One penalty for all D has the least leave-one-out error.

    See `amodal.evaluate.protocols.linear.ridge`.
    """
    scaled = Scaled.of(input_NP)
    mean = target_ND.mean(0)
    rotated = scaled.z @ scaled.v  # (N, R), orthogonal columns of length sqrt(s)
    inner = rotated.T @ (target_ND - mean)
    errors = []
    for penalty in PENALTIES:
        shrink = 1 / (scaled.s + penalty)
        leverage = rotated.square() @ shrink + 1 / len(input_NP)
        residual = target_ND - mean - rotated @ (shrink[:, None] * inner)
        errors.append((residual / (1 - leverage).clamp_min(1e-6)[:, None]).square().mean())
    shrink = 1 / (scaled.s + PENALTIES[int(torch.stack(errors).argmin())])
    w, b = scaled.unscaled(scaled.v @ (shrink[:, None] * inner), mean)
    return query_MP @ w + b


IMPUTERS = {"retrieve": nearest, "predict": ridge}


def choose_strategy(
    train: FieldVectors,
    uniform_NS: Tensor,
    rates: Sequence[float],
    evaluator: ProbeEvaluator,
    seed: int,
) -> tuple[str, dict[str, list[float]]]:
    """Choose an imputation on a quarter of the training records.

    Neither imputation nor probes learn from that quarter, and no test record is looked at.

    Args:
        train: The training records.
        uniform_NS: A field is hidden where this is below a rate.
        rates: Shares that are hidden.
        evaluator: Fits and tests the probe; its training labels are those of `train`.
        seed: Of the quarter.

    Returns:
        The strategy with the best mean score over rates (the earlier of equals), and all scores.
    """
    keys = [train.embedded.keys[i] for i in train.rows.tolist()]
    held_out = uniform(row_seeds(keys, salt=seed)) < 0.25
    if not held_out.any() or held_out.all():
        return STRATEGIES[0], {strategy: [] for strategy in STRATEGIES}
    fitted, valid, y = train.select(~held_out), train.select(held_out), evaluator.y_train
    trial = replace(evaluator, y_train=y[~held_out.numpy()], y_test=y[held_out.numpy()])
    scores = {}
    for strategy in STRATEGIES:
        base = vectors(strategy, fitted, fitted, fitted.present)
        visible = {rate: valid.present & (uniform_NS[held_out] >= rate) for rate in rates}
        tests = {
            rate: fill_nan(vectors(strategy, fitted, valid, mask), base.mean(0))
            for rate, mask in visible.items()
        }
        scores[strategy] = [rows[0]["value"] for rows in trial(base, tests).values()]
    return max(STRATEGIES, key=lambda strategy: sum(scores[strategy])), scores
