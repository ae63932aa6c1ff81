"""What a run tells by the head it learnt (`amodal adapt`) of records that it has not learnt from: by all that each has, and by one sense.

Classes: accuracy, balanced accuracy, expected calibration error and Brier score of its probabilities. Amounts: R2 and Spearman. Times until
an event: concordance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from amodal.core import Column, Embeddings
from amodal.core.embeddings import FUSED
from amodal.data.loader import class_numbers
from amodal.evaluate.labels import NotApplicable, codes, of_categories, of_numbers, of_probabilities
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded, known
from amodal.nn.heads.supervised import SupervisedHead, Target
from amodal.stats.survival import concordance

if TYPE_CHECKING:
    from amodal.inference.predict import MethodPredictor


def told(train: Embedded, test: Embedded, *, head: SupervisedHead | MethodPredictor | None = None) -> Result:
    """head: the run's own, which reads the encoder's features. A record that the head says nothing of, for it has no sense that could be
    read, is left out, and so is one of a class that it never learnt; n says how many are there."""
    if head is None:
        raise NotApplicable("it measures the head of a run that learnt to tell labels (amodal adapt RUN --label …)")
    rows, hidden = [], getattr(head, "hidden", 0)
    for source, answers in outputs(test, head).items():
        found = {name: value.numpy() for name, value in head.predictions(answers).items()}
        for target in head.targets:
            scores = measured(target, found[target.name], answers.rows.numpy(), train, test)
            rows += [{"source": source, "target": target.name, **row} for row in scores]
    if not rows:
        raise NotApplicable("no test record has a label that the head tells")
    return Result("told", {"targets": [t.name for t in head.targets], "hidden": hidden}, rows)


def outputs(test: Embedded, head: SupervisedHead | MethodPredictor) -> dict[str, Column]:
    """From all that the records have, and from each sense alone where a head on features takes them apart."""
    if not isinstance(head, SupervisedHead):  # a whole method reads the records themselves
        return {FUSED: head.on(test.changed.dataset, test.changed.indices)}
    everything = test.features.columns
    seen = {FUSED: test.features}
    if not head.joint and len(test.sources) > 1:
        for sense in test.sources:
            columns = {s: c if s == sense else nothing(c) for s, c in everything.items()}
            seen[sense] = Embeddings(columns, len(test))
    return {source: head.tell(z) for source, z in seen.items()}


def nothing(column: Column) -> Column:
    return column.at(torch.zeros(len(column), dtype=torch.bool))


def measured(target: Target, found: np.ndarray, rows: np.ndarray, train: Embedded, test: Embedded) -> list[dict]:
    labels = [test.labels.get(name) for name in target.labels]
    if any(values is None for values in labels):
        return []
    there = np.all([known(values)[rows] for values in labels], 0)
    if there.sum() < 2:
        return []
    found, rows = found[there], rows[there]
    if target.kind == "classes":
        truth = codes(labels[0], target.classes)[rows]
        own = truth >= 0  # of classes that the head has learnt; of others it cannot tell
        if own.sum() < 2:
            return []
        truth, found = truth[own], found[own]
        learnt = codes(train.labels[target.name], target.classes)
        counts = np.bincount(learnt[learnt >= 0], minlength=len(target.classes))
        return of_categories(truth, found.argmax(1), counts.argmax()) + of_probabilities(truth, found, counts)
    if target.kind == "amount":
        return of_numbers(labels[0][rows], found)
    time, event = (class_numbers(values)[0][rows] for values in labels)
    value = concordance(found, time, event == target.event)
    return [{"metric": "concordance", "value": value, "chance": 0.5, "n": len(rows)}]
