"""What the protocols that need labels share: which records count, draws of few labels, metrics,
chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Column
from amodal.inference.embed import known
from amodal.stats.calibration import brier, calibration_error
from amodal.stats.interval import half_width, mean
from amodal.stats.rank_correlation import spearman

Predict = Callable[[Tensor], Tensor]
"""(M, D) -> (M,) codes of classes, or numbers."""

Fit = Callable[[Tensor, Tensor, int], Predict]
"""(x_ND, y_N, classes) -> Predict. classes: how many, 0 where y is a number."""

BINS = 10


class NotApplicable(AmodalError):
    """A protocol that says nothing about these records, with the reason."""


def is_number(labels: np.ndarray) -> bool:
    return labels.dtype.kind == "f"


def codes(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """(N,) int64 index into `classes`, -1 for missing and for labels that are none of them."""
    index = {c: i for i, c in enumerate(classes)}
    return np.array([index.get(v, -1) for v in labels], dtype=np.int64)


def classes_of(labels: np.ndarray) -> list[str]:
    return sorted({v for v in labels if v is not None})


def measure(
    fit: Fit,
    train: Column,
    train_labels: np.ndarray,
    tests: Mapping[str, Column],
    test_labels: np.ndarray,
    *,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
    calibrated: bool = False,
) -> dict[str, list[dict]]:
    """name of a test column -> rows {metric, value, chance, n}, with {interval} where labels were
    drawn.

    few: labels of each class to learn from (of each tenth of the range where the label is a
    number), in `draws` draws whose mean and 95 % interval are given; a draw is of records, so it is
    the same for every encoder. None: all labels, once. calibrated: also how far the predictor's
    `probabilities` (M, classes) can be taken at their word. A class that occurs in test alone
    cannot be got right and counts as wrong. Columns with nothing to test give no rows.
    """
    if few is not None and few < 1:
        raise AmodalError(f"few = {few}: at least one label of each class is needed")
    number = is_number(train_labels)
    classes = [] if number else classes_of(train_labels)
    y_train = train_labels if number else codes(train_labels, classes)
    y_test = test_labels if number else codes(test_labels, classes)
    rows = train.rows.numpy()
    there = known(train_labels)[rows]
    if there.sum() < 2:
        return {}
    x, y, rows = train.values[torch.from_numpy(there)].float(), y_train[rows[there]], rows[there]
    scored = {name: known(test_labels)[c.rows.numpy()] for name, c in tests.items()}
    results: dict[str, list[list[dict]]] = {}
    for picked in _draws(rows, y, len(train_labels), number, few, draws, seed):
        predict = fit(x[picked], torch.from_numpy(y[picked]), len(classes))
        for name, column in tests.items():
            if scored[name].sum() < 2:
                continue
            truth = y_test[column.rows.numpy()[scored[name]]]
            guess = predict(column.values[torch.from_numpy(scored[name])].float()).numpy()
            metrics = (
                of_numbers(truth, guess)
                if number
                else of_categories(truth, guess, np.bincount(y).argmax())
            )
            if calibrated and not number:
                p = (
                    predict.probabilities(column.values[torch.from_numpy(scored[name])].float())
                    .double()
                    .numpy()
                )
                metrics += of_probabilities(
                    truth, p, np.bincount(y[picked], minlength=len(classes))
                )
            results.setdefault(name, []).append(metrics)
    return {name: _summary(many, few is not None) for name, many in results.items()}


def _draws(
    rows: np.ndarray,
    y: np.ndarray,
    records: int,
    number: bool,
    few: int | None,
    draws: int,
    seed: int,
) -> list[np.ndarray]:
    """Indices into `rows`, ascending, for each draw."""
    if few is None:
        return [np.arange(len(rows))]
    groups = (
        np.searchsorted(np.quantile(y, np.arange(1, BINS) / BINS), y, side="right") if number else y
    )
    picked = []
    for draw in range(draws):
        # one order of all records for every field, so that draws for different fields overlap as
        # far as they can
        order = np.argsort(
            np.random.default_rng([seed, draw]).permutation(records)[rows], kind="stable"
        )
        picked.append(
            np.sort(np.concatenate([order[groups[order] == g][:few] for g in np.unique(groups)]))
        )
    return picked


def of_categories(truth: np.ndarray, guess: np.ndarray, commonest: int) -> list[dict]:
    right = truth == guess
    present = np.unique(truth)
    balanced = np.mean([right[truth == c].mean() for c in present])
    return [
        {
            "metric": "accuracy",
            "value": float(right.mean()),
            "chance": float((truth == commonest).mean()),
            "n": len(truth),
        },
        {
            "metric": "balanced accuracy",
            "value": float(balanced),
            "chance": 1 / len(present),
            "n": len(truth),
        },
    ]


def of_probabilities(truth: np.ndarray, p: np.ndarray, counts: np.ndarray) -> list[dict]:
    """By chance: everybody gets the shares of the classes among those that were learnt from."""
    alike = np.broadcast_to(counts / counts.sum(), p.shape)
    each = {"Brier": brier, "calibration error": calibration_error}
    return [
        {"metric": metric, "value": score(p, truth), "chance": score(alike, truth), "n": len(truth)}
        for metric, score in each.items()
    ]


def of_numbers(truth: np.ndarray, guess: np.ndarray) -> list[dict]:
    guess = guess.astype(np.float64)
    spread = np.square(truth - truth.mean()).sum()
    r2 = 1 - np.square(truth - guess).sum() / spread if spread > 0 else float("nan")
    return [
        {"metric": "R2", "value": float(r2), "chance": 0.0, "n": len(truth)},
        {"metric": "Spearman", "value": spearman(truth, guess), "chance": 0.0, "n": len(truth)},
    ]


def _summary(draws: list[list[dict]], drawn: bool) -> list[dict]:
    if not drawn:
        return draws[0]
    rows = []
    for same in zip(*draws):
        values = [float(row["value"]) for row in same]
        middle, half = mean(values), half_width(values)
        rows.append(same[0] | {"value": middle, "interval": [middle - half, middle + half]})
    return rows


def label_spec(label: str, labels: np.ndarray, few: int | None, draws: int, seed: int) -> dict:
    """What of a result's spec says which labels were used."""
    spec = {"label": label, "kind": "number" if is_number(labels) else "category", "few": few}
    return spec | ({"draws": draws, "seed": seed} if few is not None else {})
