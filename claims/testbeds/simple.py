"""amodal's simple features of records (`amodal.evaluate.yardsticks`), as a predictor of a task."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from amodal.core import Column, Embeddings
from amodal.evaluate.context import EmbeddedParts, Pair
from amodal.evaluate.yardsticks import SimpleParts
from amodal.inference.embed import Embedded
from testbeds.probing import probed
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
    pair = simple_pair(Records(train.dataset.select(fields), train.rows), test)
    return probed(task, pair, train, test)


def simple_pair(train: Records, test: Records) -> Pair:
    """Simple features in the place of vectors, each field alone (`features`) and in the space of
    two fields where these are compared (`aligned`).

    Args:
        train: that they are fitted on, with the fields that are read.
        test: of the same source.

    Raises:
        NotApplicable: no field has simple features.
    """
    data = train.dataset
    stand_ins = EmbeddedParts(lambda: (_blank(train, data.fields), _blank(test, data.fields)))
    return SimpleParts(data.fields, data, (train.rows, test.rows), stand_ins).pair


def _blank(records: Records, fields: Iterable[str]) -> Embedded:
    """Records without vectors: which of them have which field."""
    columns = {}
    for field in fields:
        rows = np.flatnonzero(records.dataset.present(field)[records.rows])
        columns[field] = Column(torch.zeros(len(rows), 1), torch.from_numpy(rows))
    made = Embeddings(columns, len(records))
    return Embedded(records.keys, made, made)
