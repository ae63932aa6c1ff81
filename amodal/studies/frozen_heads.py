"""Heads on frozen features: linear maps and boosted trees on the encoder's and on simple ones.

`choose_head` compares them with a fine-tuned network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.core import Column
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.data.class_numbers import class_numbers
from amodal.evaluate.labels import codes
from amodal.evaluate.protocols import boosting, linear
from amodal.inference.embed import embed_records
from amodal.inference.probe_head import (
    FEATURES,
    Estimator,
    Linear,
    ProbeHead,
    SimpleFields,
    Trees,
    Values,
    fitted_features,
    joined,
    values_of,
    whole,
)
from amodal.nn.heads.supervised import Target
from amodal.progress import Bar
from amodal.stats.logistic import logistic
from amodal.stats.survival import fit_cox

MAX_TRAIN = 100_000
"""Records that heads on frozen features are fitted on; drawn where there are more."""
MAX_TREES = 20_000
"""Records that trees are fitted on; drawn where there are more."""
OF_FEATURES = {
    "encoder": "the encoder's features",
    "simple": "simple features",
    "both": "the encoder's and simple features",
}


@dataclass(frozen=True)
class Records:
    """Labelled records of one part of a dataset.

    Args:
        dataset: With the fields of the encoder.
        rows: (N,) numbers of the records.
    """

    dataset: Dataset
    rows: np.ndarray

    def truth(self, target: Target) -> tuple[np.ndarray, ...]:
        """Numbers of classes (-1: unknown), amounts (NaN: unknown), or times and events."""
        labels = [self.dataset.label(name, required=True) for name in target.labels]
        if target.kind == "classes":
            return (codes(labels[0][self.rows], target.classes),)
        amounts = labels[0][self.rows].astype(np.float64)
        if target.kind == "amount":
            return (amounts,)
        # classes are numbered over all records: a part may lack one
        return amounts, class_numbers(labels[1])[0][self.rows]

    def known(self, target: Target) -> np.ndarray:
        """(N,) bool: which records have the target."""
        truth = self.truth(target)
        if target.kind == "classes":
            return np.asarray(truth[0] >= 0)
        known = np.isfinite(truth[0])
        return np.asarray(known if len(truth) == 1 else known & (truth[1] >= 0))


@dataclass(frozen=True)
class Described:
    """What heads read of some records.

    Args:
        probed: Features of the encoder.
        values: Raw values of its fields.
        size: Records.
    """

    probed: Mapping[str, Column]
    values: Values
    size: int


def described(encoder: Any, records: Records, device: Any, progress: bool) -> Described:
    """Embed records once, for all heads.

    Args:
        encoder: What embeds, frozen.
        records: Which.
        device: Where the encoder is.
        progress: Show a bar.
    """
    size = len(records.rows)
    with Bar("embed", size, shown=progress) as bar:
        embedded = embed_records(
            encoder,
            records.dataset,
            records.rows,
            device=device,
            labels=False,
            progress=lambda n: bar.step("records", by=n),
        )
    values = values_of(records.dataset, records.rows, tuple(encoder.fields))
    return Described(embedded.probed(), values, size)


def drawn(records: Records, seed: int, most: int = MAX_TRAIN) -> Records:
    """At most so many of some records, drawn by a seed."""
    if len(records.rows) <= most:
        return records
    chosen = np.random.default_rng(seed).permutation(len(records.rows))[:most]
    return Records(records.dataset, records.rows[np.sort(chosen)])


def frozen_heads(
    encoder: Any,
    train: Records,
    seen: Described,
    targets: Sequence[Target],
    *,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, tuple[ProbeHead, Callable[[], None]]]:
    """Heads on frozen features, not fitted yet.

    Args:
        encoder: What embeds, frozen.
        train: Labelled training records.
        seen: What heads read of them.
        targets: What is predicted.
        seed: Of the draw of records that trees are fitted on.
        progress: Show bars.

    Returns:
        Name -> the head, and what fits it. Simple features are left out where no field has any.
    """
    probed, values, size = seen.probed, seen.values, seen.size
    transforms = {}
    with Bar("simple features", len(values), shown=progress) as bar:
        for name, (_, raws) in values.items():
            if (made := fitted_features(encoder.fields[name], raws)) is not None:
                transforms[name] = made
            bar.step("fields")
        simple = SimpleFields.fit(values, transforms, size) if transforms else None
    features = vectors_of(whole(probed)).float()
    length = float(features.square().sum(1).mean().sqrt().clamp_min(1e-9))
    heads: dict[str, tuple[ProbeHead, Callable[[], None]]] = {}
    for kind in FEATURES if simple is not None else FEATURES[:1]:
        part = simple if kind != "encoder" else None
        empty = ProbeHead(encoder, tuple(targets), kind, {}, part, length)
        x = joined(empty.blocks(probed, values, size), size)
        for estimator, fit in (("linear map", _linear), ("boosted trees", _trees)):
            if estimator == "boosted trees" and any(t.kind == "survival" for t in targets):
                continue  # scikit-learn's trees have no partial likelihood
            name = f"{estimator} on {OF_FEATURES[kind]}"
            estimators: dict[str, Estimator] = {}
            head = ProbeHead(encoder, tuple(targets), kind, estimators, part, length, name)
            heads[name] = head, _fitting(fit, x, train, targets, estimators, seed)
    return heads


def _fitting(
    fit: Callable[[Tensor, tuple[np.ndarray, ...], Target, int], Estimator],
    x: Column,
    train: Records,
    targets: Sequence[Target],
    estimators: dict[str, Estimator],
    seed: int,
) -> Callable[[], None]:
    """What fits an estimator to each target."""

    def run() -> None:
        rows = x.rows.numpy()
        for target in targets:
            usable = train.known(target)[rows]
            truth = tuple(values[rows][usable] for values in train.truth(target))
            chosen = vectors_of(x)[torch.from_numpy(usable)].float()
            estimators[target.name] = fit(chosen, truth, target, seed)

    return run


def _linear(x_ND: Tensor, truth: tuple[np.ndarray, ...], target: Target, seed: int) -> Linear:
    if target.kind == "classes":
        w, b, _ = logistic(x_ND, torch.from_numpy(truth[0]), len(target.classes), seed=seed)
        return Linear(w.float(), b.float())
    if target.kind == "amount":
        y = (torch.from_numpy(truth[0]) - target.mean) / target.std
        w, b = linear.ridge(x_ND, y.float())
        return Linear(w[:, None].float(), b.reshape(1).float())
    model = fit_cox((x_ND, truth[0], truth[1] == target.event), seed=seed)
    spread = model.spread[model.varying]
    w = torch.zeros(x_ND.shape[1], dtype=torch.float64)
    w[model.varying] = model.w / spread
    return Linear(w[:, None].float(), -(w @ model.mean).reshape(1).float())


def _trees(x_ND: Tensor, truth: tuple[np.ndarray, ...], target: Target, seed: int) -> Trees:
    y = truth[0]
    if len(y) > MAX_TREES:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(y))[:MAX_TREES])
        x_ND, y = x_ND[torch.from_numpy(chosen)], y[chosen]
    if target.kind == "classes":
        return Trees(boosting.classifier(x_ND, y, seed), np.unique(y), len(target.classes))
    z = (y - target.mean) / target.std
    return Trees(boosting.regressor(x_ND, z, seed), np.zeros(0, np.int64), 0)
