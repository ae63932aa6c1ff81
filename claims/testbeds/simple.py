"""amodal's simple features of records (`amodal.evaluate.yardsticks`), as a predictor of a task.

They are probed by the code of amodal's protocols; only the vectors are not of an encoder.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column, Embeddings
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.context import EmbeddedParts, Pair
from amodal.evaluate.labels import classes_of, codes
from amodal.evaluate.protocols import knn, linear
from amodal.evaluate.yardsticks import SimpleParts
from amodal.inference.embed import Embedded
from amodal.stats.survival import fit_cox
from testbeds.measures import outcomes
from testbeds.testbed import Records, Task


def simple(train: Records, test: Records, task: Task) -> np.ndarray:
    """Predict the test records from simple features.

    Args:
        train: eligible for the task.
        test: eligible for the task.
        task: what is predicted.

    Returns:
        See `testbeds.Predict`.

    Raises:
        NotApplicable: no field has simple features.
    """
    fields = task.fields or tuple(train.dataset.fields)
    data = train.dataset.select(fields)
    stand_ins = EmbeddedParts(lambda: (_blank(train, fields), _blank(test, fields)))
    parts = SimpleParts(data.fields, data, (train.rows, test.rows), stand_ins)
    if task.protocol == "retrieval":
        _, found = parts.pair
        a, b = (normalize(vectors_of(found.aligned[field]).double(), dim=1) for field in fields)
        return np.asarray((a @ b.T).numpy())
    return _probed(task, parts.pair, train, test)


def _blank(records: Records, fields: tuple[str, ...]) -> Embedded:
    """Records without vectors: which of them have which field."""
    columns = {}
    for field in fields:
        rows = np.flatnonzero(records.dataset.present(field)[records.rows])
        columns[field] = Column(torch.zeros(len(rows), 1), torch.from_numpy(rows))
    made = Embeddings(columns, len(records))
    return Embedded(records.keys, made, made)


def _probed(task: Task, pair: Pair, train: Records, test: Records) -> np.ndarray:
    columns = [part.probed() for part in pair]
    source = FUSED if FUSED in columns[1] else next(iter(columns[1]))
    x, other = (vectors_of(column[source]).float() for column in columns)
    known = {key: row for row, key in enumerate(train.keys)}
    # Simple features are made of a draw of the records where these are many.
    at_train = np.array([known[pair[0].keys[int(row)]] for row in columns[0][source].rows])
    chosen = train.at(at_train)
    if task.protocol == "survival":
        model = fit_cox((x, *outcomes(chosen, task)))
        predicted = model.risk(other)
    else:
        predicted = _predicted(task, x, other, chosen.label(str(task.label)))
    whole = np.full(len(test), predicted.mean() if predicted.dtype.kind == "f" else None)
    whole = whole if predicted.dtype.kind == "f" else whole.astype(object)
    whole[columns[1][source].rows.numpy()] = predicted
    return whole


def _predicted(task: Task, x: Tensor, other: Tensor, labels: np.ndarray) -> np.ndarray:
    classes = [] if task.is_number else classes_of(labels)
    y = torch.from_numpy(labels if task.is_number else codes(labels, classes))
    if task.protocol == "knn":
        guess = knn.neighbours(x, y, len(classes), k=20, temperature=0.07)(other)
    else:
        guess = linear.fit(x, y, len(classes))(other)
    if task.is_number:
        return guess.double().numpy()
    return np.array([classes[int(c)] for c in guess], dtype=object)
