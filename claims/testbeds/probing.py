"""Predictions of single records from vectors, by the probes of amodal's protocols.

The protocols give means; intervals over records need the predictions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.context import Pair
from amodal.evaluate.labels import classes_of, codes
from amodal.evaluate.protocols import knn, linear
from amodal.stats.survival import fit_cox
from testbeds.measures import outcomes
from testbeds.testbed import Records, Task


def probed(
    task: Task, pair: Pair, train: Records, test: Records, source: str | None = None
) -> np.ndarray:
    """Predict test records.

    Args:
        task: whose label, or whose two fields.
        pair: vectors of training records, which may be some of `train`, and of all of `test`.
        train: eligible for the task.
        test: eligible for the task.
        source: that is probed; all fields together unless set, or the only one.

    Returns:
        See `testbeds.Predict`.
    """
    if task.protocol == "retrieval":
        a, b = (normalize(vectors_of(pair[1].aligned[f]).double(), dim=1) for f in task.fields)
        return np.asarray((a @ b.T).numpy())
    columns = [part.probed() for part in pair]
    source = source or (FUSED if FUSED in columns[1] else next(iter(columns[1])))
    x, other = (vectors_of(column[source]).float() for column in columns)
    row_of = {key: row for row, key in enumerate(train.keys)}
    # Simple features are made of a draw of the records where these are many.
    learnt = [row_of[pair[0].keys[int(row)]] for row in columns[0][source].rows]
    chosen = train.at(np.array(learnt, dtype=np.int64))
    if task.protocol == "survival":
        predicted = fit_cox((x, *outcomes(chosen, task))).risk(other)
    else:
        predicted = _predicted(task, x, other, chosen.label(str(task.label)))
    blank = None if predicted.dtype == object else float(predicted.mean())
    whole = np.full(len(test), blank, dtype=predicted.dtype)
    whole[columns[1][source].rows.numpy()] = predicted
    return whole


def _predicted(task: Task, x: Tensor, other: Tensor, labels: np.ndarray) -> np.ndarray:
    classes = [] if task.is_number else classes_of(labels)
    y = torch.from_numpy(labels if task.is_number else codes(labels, classes))
    if task.protocol == "knn":
        guess = knn.neighbours(x, y, len(classes))(other)
    else:
        guess = linear.fit(x, y, len(classes))(other)
    if task.is_number:
        return np.asarray(guess.double().numpy())
    return np.array([classes[int(c)] for c in guess], dtype=object)
