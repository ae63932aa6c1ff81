"""What the control arm of a claim has to clear: simple features of the same records.

The simple yardsticks of `amodal evaluate` (tf-idf, tiny pixels and histograms, statistics, cells),
fitted on the training records, in the place of an encoder's vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import numpy as np
from testbeds import simple
from testbeds.testbed import Records

from amodal.core import Column
from amodal.data import Dataset
from amodal.evaluate.context import Pair
from amodal.evaluate.protocols.retrieval import retrieval
from amodal_claims._arms import probe, side_by_side


def simple_pair(dataset: Dataset, train: Sequence[int], test: Sequence[int]) -> Pair:
    """Simple features of training and of test records, see `testbeds.simple.simple_pair`."""
    parts = (Records(dataset, np.asarray(rows)) for rows in (train, test))
    return simple.simple_pair(*parts)


def simple_recall(
    dataset: Dataset, train: Sequence[int], test: Sequence[int], k: int = 10
) -> float:
    """Recall@k of held-out records by the regularised CCA between simple features of two fields,
    mean of both directions and of all pairs of fields.

    Args:
        dataset: with the fields that are compared.
        train: records that it is fitted on.
        test: the gallery.
        k: of Recall@k.
    """
    rows = retrieval(None, simple_pair(dataset, train, test)[1], recall_at=(k,)).rows
    return mean(row["value"] for row in rows if row["metric"] == f"recall@{k}")


def simple_probe(
    dataset: Dataset,
    train: Sequence[int],
    train_labels: np.ndarray,
    test: Sequence[int],
    test_labels: np.ndarray,
) -> float:
    """Accuracy of a linear probe on simple features of all fields side by side (R2 where labels are
    numbers), by the probe that trained encoders get.

    Args:
        dataset: with the fields that are read.
        train: records of the probe, with every field.
        train_labels: one each.
        test: held out.
        test_labels: one each.
    """
    names = list(dataset.fields)
    columns: list[Column] = []
    for part in simple_pair(dataset, train, test):
        columns.append(
            part.features[names[0]] if len(names) == 1 else side_by_side(part.features, names)
        )
    return probe(columns[0], train_labels, columns[1], test_labels)
