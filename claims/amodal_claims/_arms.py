"""Arms of a comparison: the library's own methods and loop, at a fixed budget, with one small
search for all of them.

Every arm of a claim gets the same steps, batch, size of encoder and learning rates to try; kept is
the rate that scores best on the validation part. The test part is looked at once, by the claim, at
the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from amodal import methods
from amodal.core import Batch, Column, Embeddings, Recipe
from amodal.data import Dataset, Loader
from amodal.evaluate import Embedded, embed_records
from amodal.evaluate.protocols.linear import linear
from amodal.inference.embed import known
from amodal.methods.contract import Method
from amodal.nn.encoder import Encoder
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train

Make = Callable[[Encoder], Method]


@dataclass(frozen=True)
class Budget:
    """What each arm may spend: `steps` optimizer steps of `batch` rows, once for each of the
    learning rates `rates`."""

    steps: int
    batch: int
    rates: tuple[float, ...] = (1e-3, 4e-3)
    size: str = "nano"


def plain_clip(encoder: Encoder) -> Method:
    """CLIP on values as they are, not augmented."""
    method = methods.build("clip", encoder)
    method.views = ("plain",)
    return method


def untrained(dataset: Dataset, make: Make, budget: Budget, seed: int, **encoder) -> Method:
    """The method before its first step. encoder: options of the encoder, such as trunk."""
    torch.manual_seed(seed)
    return make(Encoder(dataset.fields, size=budget.size, **encoder))


def trained(
    dataset: Dataset,
    rows: Sequence[int],
    make: Make,
    budget: Budget,
    seed: int,
    rate: float,
    *,
    choose: Callable[[Method, Batch, int], Batch] | None = None,
    **encoder,
) -> Method:
    """The method after the budget's steps on the records `rows`, ready to be measured. choose: what
    of each batch it learns from."""
    method = untrained(dataset, make, budget, seed, **encoder)
    return fit(method, dataset, rows, budget, seed, rate, choose=choose)


def fit(
    method: Method,
    dataset: Dataset,
    rows: Sequence[int],
    budget: Budget,
    seed: int,
    rate: float,
    *,
    choose: Callable[[Method, Batch, int], Batch] | None = None,
) -> Method:
    """The same method after the budget's steps: `trained`, for one that has learnt something
    before."""
    batch = min(budget.batch, len(rows))

    def batches(first: int, groups=None) -> Loader:
        views, labels = method.views, method.labels
        stream = dict(
            views=views,
            seed=seed,
            steps=budget.steps,
            start_step=first,
            labels=labels,
            groups=groups,
        )
        return Loader(dataset, rows, batch=batch, **stream)

    recipe = Recipe(steps=budget.steps, lr=rate, precision="float32")
    with tempfile.TemporaryDirectory() as run:
        quiet = dict(
            monitor=CollapseMonitor([]), save_every=budget.steps, tensorboard=False, progress=False
        )
        records = Loader(dataset, rows, batch=256, shuffle=False, labels=method.labels)
        train(method, batches, recipe, Path(run), records=records, choose=choose, **quiet)
    return method.eval()


def best(
    dataset: Dataset,
    rows: Sequence[int],
    make: Make,
    budget: Budget,
    seed: int,
    score: Callable[[Method], float],
    **encoder,
) -> Method:
    """The same search for every arm: of the budget's learning rates, the one with the best `score`
    (of validation records)."""
    return max(
        (trained(dataset, rows, make, budget, seed, rate, **encoder) for rate in budget.rates),
        key=score,
    )


def labelled(dataset: Dataset, part: str, label: str) -> np.ndarray:
    """The records of a part of the split that have the label."""
    rows = dataset.split(part)
    return rows[known(dataset.label(label))[rows]]


def features(encoder: Encoder, dataset: Dataset, rows: Iterable[int]) -> Embeddings:
    """What a probe reads: the trunk's features of the records `rows`, each modality alone, and `fused`
    with a joint trunk."""
    return embed_records(encoder, dataset, rows, labels=False).features


def side_by_side(embeddings: Embeddings, names: Sequence[str]) -> Column:
    """The vectors of several modalities as one, for the records that have them all."""
    rows, vectors = embeddings.complete(names)
    return Column(torch.cat(vectors, 1), rows)


def raw(dataset: Dataset, rows: Sequence[int], names: Sequence[str]) -> Column:
    """The decoded values themselves as vectors; every record must have them, in one size."""
    values = [
        np.concatenate([dataset.value(i, n).ravel().astype(np.float32) for n in names])
        for i in rows
    ]
    return Column(torch.from_numpy(np.stack(values)), torch.arange(len(values)))


def probe(train: Column, train_labels: np.ndarray, test: Column, test_labels: np.ndarray) -> float:
    """Accuracy of a linear probe, R2 where labels are numbers; one label for each record that
    `rows` counts."""
    parts = [(train, train_labels), (test, test_labels)]
    each = [(Embeddings({"probed": column}, len(labels)), labels) for column, labels in parts]
    embedded = [Embedded([""] * len(labels), one, one, {"label": labels}) for one, labels in each]
    return linear(*embedded, label="label").rows[0]["value"]
