"""What the head of a run (`amodal adapt`) predicts of records that it did not learn from: from all
fields, and from each.

Classes: accuracy, balanced accuracy, expected calibration error and Brier score of its
probabilities. Amounts: R2 and Spearman. Times until an event: concordance."""

from __future__ import annotations

import numpy as np
import torch

from amodal.core import Column, Embeddings
from amodal.core.embeddings import FUSED
from amodal.data.loader import class_numbers
from amodal.evaluate.labels import NotApplicable, codes, of_categories, of_numbers, of_probabilities
from amodal.evaluate.needs import HEAD, NO_HEAD
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded, known
from amodal.inference.predict import MethodPredictor
from amodal.nn.heads.supervised import SupervisedHead, Target
from amodal.stats.survival import concordance


def head(
    train: Embedded, test: Embedded, *, head: SupervisedHead | MethodPredictor | None = None
) -> Result:
    """Scores of each target, from all fields of a record and from each alone.

    head: the run's own, which reads the encoder's features. Records without a value that it reads
    are left out, and so are those of a class that it never learnt; `n` counts the rest.
    """
    if head is None:
        raise NotApplicable(NO_HEAD)
    rows, hidden = [], getattr(head, "hidden", 0)
    for source, column in outputs(test, head).items():
        predicted = {name: value.numpy() for name, value in head.predictions(column).items()}
        for target in head.targets:
            scores = measured(target, predicted[target.name], column.rows.numpy(), train, test)
            rows += [{"source": source, "target": target.name, **row} for row in scores]
    if not rows:
        raise NotApplicable("no test record has a label that the head predicts")
    return Result("head", {"targets": [t.name for t in head.targets], "hidden": hidden}, rows)


def outputs(test: Embedded, head: SupervisedHead | MethodPredictor) -> dict[str, Column]:
    """From all that the records have, and from each field alone where a head on features takes them
    apart."""
    if not isinstance(head, SupervisedHead):  # a whole method reads the records themselves
        return {FUSED: head.on(test.changed.dataset, test.changed.indices)}
    everything = test.features.columns
    seen = {FUSED: test.features}
    if not head.joint and len(test.sources) > 1:
        for field in test.sources:
            columns = {s: c if s == field else nothing(c) for s, c in everything.items()}
            seen[field] = Embeddings(columns, len(test))
    return {source: head.predict(z) for source, z in seen.items()}


def nothing(column: Column) -> Column:
    return column.at(torch.zeros(len(column), dtype=torch.bool))


def measured(
    target: Target, predicted: np.ndarray, rows: np.ndarray, train: Embedded, test: Embedded
) -> list[dict]:
    labels = [test.labels.get(name) for name in target.labels]
    if any(values is None for values in labels):
        return []
    there = np.all([known(values)[rows] for values in labels], 0)
    if there.sum() < 2:
        return []
    predicted, rows = predicted[there], rows[there]
    if target.kind == "classes":
        truth = codes(labels[0], target.classes)[rows]
        own = truth >= 0  # of classes that the head has learnt; of others it cannot tell
        if own.sum() < 2:
            return []
        truth, predicted = truth[own], predicted[own]
        learnt = codes(train.labels[target.name], target.classes)
        counts = np.bincount(learnt[learnt >= 0], minlength=len(target.classes))
        return of_categories(truth, predicted.argmax(1), counts.argmax()) + of_probabilities(
            truth, predicted, counts
        )
    if target.kind == "amount":
        return of_numbers(labels[0][rows], predicted)
    time, event = (class_numbers(values)[0][rows] for values in labels)
    value = concordance(predicted, time, event == target.event)
    return [{"metric": "concordance", "value": value, "chance": 0.5, "n": len(rows)}]


class HeadOfRun(Protocol):
    """The head that the run learnt."""

    name, needs = "head", (HEAD,)
    rank = 10
    measure = staticmethod(head)


PROTOCOL = HeadOfRun()
