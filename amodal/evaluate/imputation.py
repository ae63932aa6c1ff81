"""What may stand for the vector of an absent field, for an encoder that has no way of its own of
doing without it.

drop: nothing, the record is what its other fields make; mean: the mean of the field's training
vectors; retrieve: that of the training record that is nearest by the fields which are there;
predict: ridge regression from the vectors of the fields which are there. All in the aligned space,
on unit vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from amodal.core import row_seeds
from amodal.evaluate.missing_modalities import FieldVectors, Judge, or_mean
from amodal.masking.hashing import uniform
from amodal.stats.logistic import Scaled

WAYS = ("drop", "mean", "retrieve", "predict")
PENALTIES = torch.logspace(-2, 4, 7)
CELLS = 2**23
LEAST = 10  # donors below which a field is not guessed from others


def vectors(way: str, learn: FieldVectors, seen: FieldVectors, left_NS: Tensor) -> Tensor:
    """(N, D) one vector for each record of `seen` of which the fields `left_NS` are left; NaN where
    there is nothing to go by.

    drop: the encoder's own fusion; otherwise the mean over all fields, absent ones filled in from
    `learn`.
    """
    return seen.fused(left_NS) if way == "drop" else filled(way, learn, seen.x, left_NS).mean(1)


def filled(way: str, learn: FieldVectors, x_NSD: Tensor, left_NS: Tensor) -> Tensor:
    """(N, S, D): the vectors that are left, and for the others what `way` makes of them from the
    records of `learn`. A field that no record of `learn` has stays zero."""
    means = learn.x.sum(0) / learn.there.sum(0).clamp_min(1).unsqueeze(1)
    out = torch.where(left_NS.unsqueeze(2), x_NSD, means)
    if way == "mean":
        return out
    for pattern in left_NS.unique(dim=0):
        if pattern.all() or not pattern.any():
            continue
        asked = (left_NS == pattern).all(1).nonzero().squeeze(1)
        query = x_NSD[asked][:, pattern].flatten(1)
        able = learn.there[:, pattern].all(1)
        for field in (~pattern).nonzero().squeeze(1).tolist():
            donors = (able & learn.there[:, field]).nonzero().squeeze(1)
            if len(donors) < LEAST:
                continue
            known, wanted = learn.x[donors][:, pattern].flatten(1), learn.x[donors, field]
            out[asked, field] = GUESS[way](query, known, wanted)
    return out


def nearest(query_MP: Tensor, known_NP: Tensor, wanted_ND: Tensor) -> Tensor:
    """(M, D): of the record with the largest sum of cosines over the fields in common."""
    parts = query_MP.split(max(1, CELLS // len(known_NP)))
    return wanted_ND[torch.cat([(part @ known_NP.T).argmax(1) for part in parts])]


def ridge(query_MP: Tensor, known_NP: Tensor, wanted_ND: Tensor) -> Tensor:
    """(M, D): the linear regression whose penalty, one for all D, has the least leave-one-out error
    (see `linear.ridge`)."""
    scaled = Scaled.of(known_NP)
    middle = wanted_ND.mean(0)
    turned = scaled.z @ scaled.v  # (N, R), orthogonal columns of length sqrt(s)
    inner = turned.T @ (wanted_ND - middle)
    errors = []
    for penalty in PENALTIES:
        shrink = 1 / (scaled.s + penalty)
        leverage = turned.square() @ shrink + 1 / len(known_NP)
        residual = wanted_ND - middle - turned @ (shrink[:, None] * inner)
        errors.append((residual / (1 - leverage).clamp_min(1e-6)[:, None]).square().mean())
    shrink = 1 / (scaled.s + PENALTIES[int(torch.stack(errors).argmin())])
    w, b = scaled.unscaled(scaled.v @ (shrink[:, None] * inner), middle)
    return query_MP @ w + b


GUESS = {"retrieve": nearest, "predict": ridge}


def chosen(
    learn: FieldVectors, chance_NS: Tensor, rates: Sequence[float], judge: Judge, seed: int
) -> tuple[str, dict[str, list[float]]]:
    """The way with the best mean score over rates (the earlier of two that are as good), and all
    their scores, on a quarter of the training records, from which neither ways nor probes learnt.
    Of the test records nothing is known here."""
    asked = (
        uniform(row_seeds([learn.embedded.keys[i] for i in learn.rows.tolist()], salt=seed)) < 0.25
    )
    if not asked.any() or asked.all():
        return WAYS[0], {way: [] for way in WAYS}
    fitted, valid, y = learn.at(~asked), learn.at(asked), judge.y_train
    trial = replace(judge, y_train=y[~asked.numpy()], y_test=y[asked.numpy()])
    scores = {}
    for way in WAYS:
        base = vectors(way, fitted, fitted, fitted.there)
        left = {
            rate: vectors(way, fitted, valid, valid.there & (chance_NS[asked] >= rate))
            for rate in rates
        }
        found = trial(base, {rate: or_mean(x, base.mean(0)) for rate, x in left.items()})
        scores[way] = [rows[0]["value"] for rows in found.values()]
    return max(WAYS, key=lambda way: sum(scores[way])), scores
