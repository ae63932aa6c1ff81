"""Fine-tuning: an encoder and a linear head on one of its modalities, trained end to end on the labels
of some records."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amodal.core import Batch, Column
from amodal.core.column import shared_rows
from amodal.data import Dataset
from amodal.methods.contract import Features, Method
from amodal.nn.encoder import Encoder
from amodal.objectives.common import connected_zero
from amodal_claims._arms import Budget, features, fit

Code = Callable[[Tensor], Tensor]
"""(N,) labels as batches bring them -> (N,) int64 classes."""


class Tuned(Method):
    """source: the modality that is read; label: of the data; code: its values to classes."""

    views = ("weak",)

    def __init__(self, encoder: Encoder, source: str, label: str, classes: int, code: Code):
        super().__init__()
        self.encoder, self.source, self.labels, self.code = encoder, source, (label,), code
        self.head = nn.Linear(encoder.width, classes)

    def features(self, batch: Batch) -> Features:
        seen = self.encoder.features(batch.only(self.source))[self.source]
        label = batch.labels[self.labels[0]]
        columns = {
            self.source: Column(self.head(seen.values), seen.rows),
            "label": Column(self.code(label.values), label.rows),
        }
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        logits, label = features[self.source], features["label"]
        at, at_label = shared_rows(logits, label)
        if not len(at):
            return {"cross_entropy": connected_zero(logits.values)}
        return {"cross_entropy": cross_entropy(logits.values[at].float(), label.values[at_label])}

    @torch.no_grad()
    def accuracy(self, dataset: Dataset, rows: Sequence[int], truth_N: np.ndarray) -> float:
        """Balanced accuracy of the records `rows`, all of which have the modality and, as `truth_N`, a
        class."""
        logits = self.head(features(self.encoder, dataset, rows)[self.source].values)
        right = logits.argmax(1).numpy() == truth_N
        return float(np.mean([right[truth_N == c].mean() for c in np.unique(truth_N)]))


def tuned(
    encoder: Encoder,
    dataset: Dataset,
    source: str,
    parts: dict[str, np.ndarray],
    truth: np.ndarray,
    *,
    label: str,
    code: Code,
    budget: Budget,
    seed: int,
) -> float:
    """Balanced accuracy on the test part after fine-tuning a copy of the encoder on the train part,
    at that of the budget's learning rates which is best on the valid part. truth: (records,) the
    class of every record."""
    one, found = dataset.select([source]), []
    for rate in budget.rates:
        torch.manual_seed(seed)
        method = Tuned(copy.deepcopy(encoder).train(), source, label, int(truth.max()) + 1, code)
        fit(method, one, parts["train"], budget, seed, rate)
        found.append((method.accuracy(one, parts["valid"], truth[parts["valid"]]), method))
    best = max(found, key=lambda pair: pair[0])[1]
    return best.accuracy(one, parts["test"], truth[parts["test"]])
