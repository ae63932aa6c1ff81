"""How well the head of a run (`amodal adapt`) predicts labels of records that it did not learn
from.

Classes: accuracy, balanced accuracy, expected calibration error and Brier score. Amounts: R2 and
Spearman's correlation. Times until an event: concordance and AUC over time, and a picture of the
curves of those at low and at high predicted risk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from amodal.core import Column, Embeddings
from amodal.core.embeddings import FUSED
from amodal.data.class_numbers import class_numbers
from amodal.evaluate.context import Context
from amodal.evaluate.labels import (
    NotApplicable,
    calibration_rows,
    classification_rows,
    codes,
    regression_rows,
)
from amodal.evaluate.needed_records import Mask, PartRecords, no_record
from amodal.evaluate.needs import HEAD, NO_HEAD
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.risks import risk_groups, risk_rows
from amodal.evaluate.row import Row, Spec
from amodal.inference.embed import Embedded, known
from amodal.inference.heads import AnyHead
from amodal.nn.heads.supervised import SupervisedHead, Target
from amodal.stats.survival_scores import Predictions


def head(train: Embedded, test: Embedded, *, head: AnyHead | None = None) -> Result:
    """Score each target, from all fields of a record and from each field alone.

    Records without a value that the head reads are left out, and so are those of a class that it
    did not learn; `n` counts the rest.

    Args:
        train: Training records, for the chance level.
        test: Test records.
        head: The run's own, on the encoder's features or a whole method.

    Raises:
        NotApplicable: Without a head, or without a label that it predicts.
    """
    if head is None:
        raise NotApplicable(NO_HEAD)
    rows: list[Row] = []
    groups: dict[str, Any] = {}
    hidden = head.hidden if isinstance(head, SupervisedHead) else 0
    for source, column in outputs(test, head).items():
        predicted = {name: value.numpy() for name, value in head.predictions(column).items()}
        for target in head.targets:
            scores = scores_of(target, predicted[target.name], column.rows.numpy(), train, test)
            rows += [{"source": source, "target": target.name, **row} for row in scores]
            if target.kind == "survival" and scores:
                part = risks_of(target, predicted[target.name], column.rows.numpy(), train, test)
                groups.setdefault(target.name, {})[source] = risk_groups([part])
    if not rows:
        raise NotApplicable("no test record has a label that the head predicts")
    spec: Spec = {"targets": [t.name for t in head.targets], "hidden": hidden}
    return Result("head", spec | ({"groups": groups} if groups else {}), rows)


def outputs(test: Embedded, head: AnyHead) -> dict[str, Column]:
    """What the head gives for all fields and, for a head on features that are not fused, for each
    alone."""
    if not isinstance(head, SupervisedHead):  # others read the records themselves
        forward = test.perturbed_forward
        if forward is None:
            raise NotApplicable("the head reads records, and these are vectors only")
        return {FUSED: head.outputs(forward.dataset, forward.indices)}
    everything = test.features.columns
    seen = {FUSED: test.features}
    if not head.joint and len(test.sources) > 1:
        for field in test.sources:
            columns = {s: c if s == field else empty(c) for s, c in everything.items()}
            seen[field] = Embeddings(columns, len(test))
    return {source: head.predict(z) for source, z in seen.items()}


def empty(column: Column) -> Column:
    """The column without any row."""
    return column.at(torch.zeros(len(column), dtype=torch.bool))


def scores_of(
    target: Target, predicted: np.ndarray, rows: np.ndarray, train: Embedded, test: Embedded
) -> list[Row]:
    """Rows of one target.

    Args:
        target: What was predicted.
        predicted: Of the records at `rows`: (n, K) probabilities, or (n,) amounts or log hazards.
        rows: (n,) test records.
        train: Training records.
        test: Test records.
    """
    if not all(name in test.labels for name in target.labels):
        return []
    labels = [test.labels[name] for name in target.labels]
    labelled = np.all([known(values)[rows] for values in labels], 0)
    if labelled.sum() < 2:
        return []
    predicted, rows = predicted[labelled], rows[labelled]
    if target.kind == "classes":
        truth = codes(labels[0], target.classes)[rows]
        learnt = truth >= 0  # the head cannot predict other classes
        if learnt.sum() < 2:
            return []
        truth, predicted = truth[learnt], predicted[learnt]
        y_train = codes(train.labels[target.name], target.classes)
        counts = np.bincount(y_train[y_train >= 0], minlength=len(target.classes))
        accuracies = classification_rows(
            truth, predicted.argmax(1), int(counts.argmax()), predicted
        )
        return accuracies + calibration_rows(truth, predicted, counts)
    if target.kind == "amount":
        return regression_rows(labels[0][rows], predicted)
    return risk_rows(risks_of(target, predicted, rows, train, test))


def risks_of(
    target: Target, risk: np.ndarray, rows: np.ndarray, train: Embedded, test: Embedded
) -> Predictions:
    """Predicted risks of records beside their times and events.

    Args:
        target: A time until an event.
        risk: (n,) log hazards.
        rows: (n,) test records, of which those without a label are left out.
        train: Training records, by which censoring is estimated.
        test: Test records.
    """

    def outcomes(part: Embedded) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = [part.labels[name] for name in target.labels]
        have = np.all([known(values) for values in labels], 0)
        time, event = (class_numbers(values)[0] for values in labels)
        return time, event == target.event, have

    time, event, have = outcomes(test)
    fit_time, fit_event, learnt = outcomes(train)
    risk, rows = risk[have[rows]], rows[have[rows]]
    return Predictions(
        np.arange(len(rows)),
        time[rows],
        event[rows],
        risk,
        np.zeros((len(rows), 0)),
        (fit_time[learnt], fit_event[learnt]),
    )


def labelled_by_targets(part: PartRecords, context: Context) -> Mask:
    """Those with a label that the head predicts."""
    targets = context.head.targets if context.head is not None else ()
    masks = [part.labelled(",".join(target.labels)) for target in targets]
    return np.any(masks, 0) if masks else no_record(part, context)


class HeadOfRun(Protocol):
    """The head that the run learnt."""

    name, needs, needed = "head", (HEAD,), (no_record, labelled_by_targets)
    rank = 10
    measure = staticmethod(head)

    def draw(self, result: Result, path: Path) -> Path | None:
        """The curves of risk groups, of the first target that is a time until an event."""
        from amodal.evaluate.survival_picture import curves

        for target, groups in (result.spec.get("groups") or {}).items():
            rows = [row for row in result.rows if row.get("target") == target]
            return curves(groups, rows, target.split(",")[0], path)
        return None


PROTOCOL = HeadOfRun()
