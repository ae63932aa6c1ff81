"""Labels, draws of few of them, metrics and chance, for the protocols that need labels."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Column
from amodal.core.embeddings import vectors as vectors_of
from amodal.errors import warn
from amodal.evaluate.row import Row, Spec
from amodal.inference.embed import Embedded, known
from amodal.stats.auroc import auroc
from amodal.stats.calibration import brier, calibration_error
from amodal.stats.interval import half_width, mean
from amodal.stats.paired_bootstrap import (
    BalancedAccuracy,
    Determination,
    MacroF1,
    Mean,
    MeanAuroc,
    Outcome,
    RankCorrelation,
    Repeated,
)
from amodal.stats.rank_correlation import spearman

Predict = Callable[[Tensor], Tensor]
"""(M, D) -> (M,) codes of classes, or numbers."""

Fit = Callable[[Tensor, Tensor, int], Predict]
"""(x_ND, y_N, classes) -> Predict. classes: how many, 0 where y is a number."""

Key = TypeVar("Key", bound=Hashable)

BINS = 10
"""Quantiles of a number that few labels are drawn from."""


class Classifier(Protocol):
    """A predictor of classes that also gives probabilities."""

    def __call__(self, x_MD: Tensor) -> Tensor:
        """(M,) codes of classes."""
        ...

    def probabilities(self, x_MD: Tensor) -> Tensor:
        """(M, K), rows sum to one."""
        ...


class NotApplicable(AmodalError):
    """A protocol cannot measure anything on these records; the message says why."""


def is_number(labels: np.ndarray) -> bool:
    """Whether labels are numbers and not names of classes."""
    return labels.dtype.kind == "f"


def codes(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Classes by number.

    Args:
        labels: (N,) names, None where missing.
        classes: Their order.

    Returns:
        (N,) int64 index into `classes`, -1 for missing and for other labels.
    """
    index = {c: i for i, c in enumerate(classes)}
    return np.array([index.get(v, -1) for v in labels], dtype=np.int64)


def classes_of(labels: Iterable[str | None]) -> list[str]:
    """The classes that occur, sorted."""
    return sorted({v for v in labels if v is not None})


def measure(
    fit: Fit,
    train: Column,
    train_labels: np.ndarray,
    tests: Mapping[Key, Column],
    test_labels: np.ndarray,
    *,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
    calibrated: bool = False,
    outcomes: bool = False,
    population: np.ndarray | None = None,
) -> dict[Key, list[Row]]:
    """Fit a predictor on labelled vectors and score it on others.

    A class that occurs in test alone cannot be predicted and counts as wrong.

    Args:
        fit: The predictor.
        train: (N, D) vectors to learn from.
        train_labels: Labels of all training records, by row.
        tests: name -> (M, D) vectors to test on.
        test_labels: Labels of all test records, by row.
        few: Labels of each class to learn from; of each tenth of the range where the label is a
            number. None for all labels.
        draws: How often the few are drawn. A draw is of records, so it is the same for every
            encoder.
        seed: Of the draws.
        calibrated: Whether to score the predictor's `probabilities` (M, classes) too.
        outcomes: Whether rows have an `outcome`, see `Result.outcomes`.
        population: Rows that the few are drawn from, of which `train` has those that are drawn;
            None for the rows of `train`.

    Returns:
        name -> rows {metric, value, chance, n}. Where labels were drawn, `value` is the mean and
        `interval` its 95 % interval. Names with fewer than two labelled vectors are left out.

    Raises:
        AmodalError: If `few` is below 1.
    """
    if few is not None and few < 1:
        raise AmodalError(f"few = {few}: at least one label of each class is needed")
    number = is_number(train_labels)
    classes = [] if number else classes_of(train_labels)
    y_train = train_labels if number else codes(train_labels, classes)
    y_test = test_labels if number else codes(test_labels, classes)
    rows = train.rows.numpy()
    labelled = known(train_labels)[rows]
    pool = rows if population is None or few is None else np.union1d(population, rows)
    pool = pool[known(train_labels)[pool]]
    if len(pool) < 2 or not labelled.any():
        return {}
    x = vectors_of(train)[torch.from_numpy(labelled)].float()
    y, rows = y_train[rows[labelled]], rows[labelled]
    usable = {}
    for name, column in tests.items():
        scored = known(test_labels)[column.rows.numpy()]
        if scored.sum() >= 2:
            usable[name] = column.at(torch.from_numpy(scored))
    results: dict[Key, list[list[Row]]] = {}
    most_frequent = 0 if number else int(np.bincount(y_train[pool]).argmax())
    for chosen in [None] if few is None else draws_of(train_labels, pool, few, draws, seed):
        picked = np.arange(len(rows)) if chosen is None else _positions(rows, pool[chosen])
        predict = fit(x[picked], torch.from_numpy(y[picked]), len(classes))
        for name, column in usable.items():
            truth = y_test[column.rows.numpy()]
            who = column.rows.numpy() if outcomes else None
            vectors = vectors_of(column).float()
            guess = predict(vectors).numpy()
            if number:
                metrics = regression_rows(truth, guess, who)
            elif calibrated:
                # `calibrated` is for predictors that have probabilities
                p = cast(Classifier, predict).probabilities(vectors).double().numpy()
                counts = np.bincount(y[picked], minlength=len(classes))
                metrics = classification_rows(truth, guess, most_frequent, p, who)
                metrics += calibration_rows(truth, p, counts)
            else:
                metrics = classification_rows(truth, guess, most_frequent, who=who)
            results.setdefault(name, []).append(metrics)
    return {name: _summary(per_draw, few is not None) for name, per_draw in results.items()}


def measure_sources(
    fit: Fit,
    train: Embedded,
    test: Embedded,
    label: str,
    *,
    sources: Sequence[str] | None = None,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
    calibrated: bool = False,
) -> tuple[Spec, list[Row]]:
    """Fit a predictor of a label on the features of each source, and score it on the same source.

    Args:
        fit: The predictor.
        train: Training records.
        test: Test records.
        label: What is predicted.
        sources: All unless set, the fused vectors among them.
        few: See `measure`.
        draws: See `measure`.
        seed: See `measure`.
        calibrated: See `measure`.

    Returns:
        Which labels and records were used, and rows with outcomes.
    """
    y_train, y_test = train.label(label), test.label(label)
    columns, others = train.probed(), test.probed()
    rows = []
    for source in sources or columns:
        scores = measure(
            fit,
            columns[source],
            y_train,
            {source: others[source]},
            y_test,
            few=few,
            draws=draws,
            seed=seed,
            calibrated=calibrated,
            outcomes=True,
            population=train.population.get(source),
        )
        rows += [{"source": source, **row} for row in scores.get(source, [])]
    spec = label_spec(label, y_train, few, draws, seed)
    return spec | {"space": "features", "train": len(train), "test": len(test)}, rows


def _positions(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions in `rows` of those that are wanted. Both ascend."""
    return np.flatnonzero(np.isin(rows, wanted, assume_unique=True))


def draws_of(
    labels: np.ndarray, pool: np.ndarray, few: int, draws: int, seed: int
) -> list[np.ndarray]:
    """Draw few labels of each class, or of each tenth of the range of a number.

    Args:
        labels: (N,) of all records.
        pool: (n,) labelled records that are drawn from.
        few: Labels of each class.
        draws: How often.
        seed: Of the draws.

    Returns:
        Indices into `pool`, ascending, for each draw.
    """
    if not len(pool):
        return []
    y = labels[pool]
    if is_number(labels):
        groups = np.searchsorted(np.quantile(y, np.arange(1, BINS) / BINS), y, side="right")
    else:
        groups = codes(y, classes_of(labels))
    largest = int(np.bincount(groups).max())
    if few > largest:
        warn(
            f"few = {few}, and no class has more than {largest} records with a label here: all of "
            "them are taken"
        )
    picked = []
    for draw in range(draws):
        # one order of all records for every field, so that draws for different fields overlap as
        # far as they can
        order = np.argsort(
            np.random.default_rng([seed, draw]).permutation(len(labels))[pool], kind="stable"
        )
        picked.append(
            np.sort(np.concatenate([order[groups[order] == g][:few] for g in np.unique(groups)]))
        )
    return picked


def classification_rows(
    truth: np.ndarray,
    guess: np.ndarray,
    most_frequent: int,
    p: np.ndarray | None = None,
    who: np.ndarray | None = None,
) -> list[Row]:
    """Accuracy, balanced accuracy, macro F1 and, with probabilities, AUROC.

    Args:
        truth: (N,) codes of classes.
        guess: (N,) predicted codes.
        most_frequent: The class that a blind guess takes, for the chance level of accuracy and F1.
        p: (N, K) predicted probabilities. AUROC is the mean over classes, each against the rest,
            and is left out where no class has both.
        who: (N,) numbers of the records, for an `outcome` of each row; None for none.

    Returns:
        A row for each metric. The means over classes have their `standard_error`.
    """
    right = truth == guess
    present = np.unique(truth)
    shares = [right[truth == c] for c in present]
    # variances of the shares, p (1 - p) / n
    errors = [share.mean() * (1 - share.mean()) / len(share) for share in shares]
    blind = np.full_like(truth, most_frequent)
    values = {
        "accuracy": (float(right.mean()), float((truth == most_frequent).mean())),
        "balanced accuracy": (float(np.mean([s.mean() for s in shares])), 1 / len(present)),
        "macro F1": (_macro_f1(truth, guess, present), _macro_f1(truth, blind, present)),
    }
    both: list[int] = []
    areas = []
    if p is not None:
        both = [c for c in present if 0 <= c < p.shape[1] and not (truth == c).all()]
        areas = [auroc(p[:, c], truth == c) for c in both]
    if areas:
        values["AUROC"] = (float(np.mean(areas)), 0.5)
    rows: list[Row] = [
        {"metric": metric, "value": value, "chance": chance, "n": len(truth)}
        for metric, (value, chance) in values.items()
    ]
    rows[1]["standard_error"] = float(np.sqrt(np.sum(errors)) / len(present))
    if who is not None:
        outcomes: list[Outcome] = [
            Mean(who, right.astype(np.float32)),
            BalancedAccuracy(who, truth, guess),
            MacroF1(who, truth, guess),
        ]
        if p is not None and areas:
            outcomes.append(MeanAuroc(who, truth, p, both))
        for row, outcome in zip(rows, outcomes, strict=True):
            row["outcome"] = outcome
    return rows


def _macro_f1(truth: np.ndarray, guess: np.ndarray, classes: np.ndarray) -> float:
    """The mean F1 of classes; scikit-learn's, whose import takes longer than all probes."""
    hits = np.array([np.sum((truth == c) & (guess == c)) for c in classes])
    counts = np.array([np.sum(truth == c) + np.sum(guess == c) for c in classes])
    return float(np.mean(2 * hits / counts))


def calibration_rows(truth: np.ndarray, p: np.ndarray, counts: np.ndarray) -> list[Row]:
    """Brier score and expected calibration error.

    Args:
        truth: (N,) codes of classes.
        p: (N, K) predicted probabilities.
        counts: (K,) training records of each class. Chance predicts their shares for everybody.
    """
    prior = np.broadcast_to(counts / counts.sum(), p.shape)
    scores = {"Brier": brier, "calibration error": calibration_error}
    return [
        {"metric": metric, "value": score(p, truth), "chance": score(prior, truth), "n": len(truth)}
        for metric, score in scores.items()
    ]


def regression_rows(
    truth: np.ndarray, guess: np.ndarray, who: np.ndarray | None = None
) -> list[Row]:
    """R2 and Spearman's correlation.

    Args:
        truth: (N,) numbers.
        guess: (N,) predicted numbers.
        who: See `classification_rows`.
    """
    guess = guess.astype(np.float64)
    spread = np.square(truth - truth.mean()).sum()
    r2 = 1 - np.square(truth - guess).sum() / spread if spread > 0 else float("nan")
    rows: list[Row] = [
        {"metric": "R2", "value": float(r2), "chance": 0.0, "n": len(truth)},
        {"metric": "Spearman", "value": spearman(truth, guess), "chance": 0.0, "n": len(truth)},
    ]
    if who is not None:
        for row, kind in zip(rows, (Determination, RankCorrelation)):
            row["outcome"] = kind(who, truth, guess)
    return rows


def _summary(draws: list[list[Row]], drawn: bool) -> list[Row]:
    if not drawn:
        return draws[0]
    rows = []
    for same in zip(*draws):
        values = [float(row["value"]) for row in same]
        middle, half = mean(values), half_width(values)
        row = same[0] | {"value": middle, "interval": [middle - half, middle + half]}
        if "outcome" in row:
            parts = [row["outcome"] for row in same]
            row["outcome"] = Repeated(parts[0].who, parts)
        rows.append(row)
    return rows


def label_spec(label: str, labels: np.ndarray, few: int | None, draws: int, seed: int) -> Spec:
    """The part of a result's spec that says which labels were used."""
    spec = {"label": label, "kind": "number" if is_number(labels) else "category", "few": few}
    return spec | ({"draws": draws, "seed": seed} if few is not None else {})
