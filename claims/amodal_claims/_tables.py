"""Handwritten digits as tables of features, modalities of one record: what several claims train on
where any number of modalities with a label will do.

A perceptron a table, trained so that the tables of a record agree, says more of the digit than the
cells do when labels are few, and more than the perceptrons before training; few sets of this size
allow that. Values are augmented ("strong"), since without it some hundred steps are enough to learn
1,200 records by heart. All of this was looked at with control arms on seeds of the pilot alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch

from amodal.core import Column, Embeddings
from amodal.data import Dataset
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of
from amodal_claims._arms import Budget, Make, features, probe, side_by_side, trained, untrained
from amodal_claims._floors import simple_pair

DATA = "digits"
TABLES = ("pix", "fou", "kar")
"""Pixels, Fourier coefficients, Karhunen-Loeve coefficients: three of the six."""
LABEL = "digit"
PERCEPTRON = "mlp:width=128,norm=layer"
SIZE = "nano"
BATCH, RATE = 128, 2e-3
"""Of all arms."""
TRAIN, VALID = 1200, 200
"""Records; the other 600 are the test part."""
FEW, DRAWS = 5, 4
"""Labels a class, and how many times they are drawn: a probe is the mean over the draws, since which
five digits were labelled moves it more than which loss was trained."""
ACCURACY = "accuracy of a linear probe on 5 labels a class, 600 held-out digits"


@dataclass(frozen=True)
class Parts:
    """Records of a division.

    Args:
        train: to learn from without labels.
        valid: to choose by.
        test: held out.
        few: of `train`, the labelled ones of each draw.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    few: tuple[np.ndarray, ...]


def division(dataset: Dataset, seed: int, row: int) -> Parts:
    """Another one for each seed and row of the catalogue."""
    rng = np.random.default_rng([seed, row])
    order, label = rng.permutation(len(dataset)), dataset.label(LABEL)
    train, valid, test = np.split(order, [TRAIN, TRAIN + VALID])
    few = tuple(
        np.sort(np.concatenate([rng.permutation(train[label[train] == c])[:FEW] for c in classes]))
        for classes in [np.unique(label)] * DRAWS
    )
    return Parts(np.sort(train), np.sort(valid), np.sort(test), few)


def tables(dataset: Dataset) -> Dataset:
    """The digits with these tables alone."""
    return dataset.select(TABLES)


def perceptrons(dataset: Dataset, seed: int) -> dict[str, torch.nn.Module]:
    """table -> an encoder that has learnt nothing, the same for all arms of a seed."""
    torch.manual_seed(seed)
    width = size_of(SIZE).width
    return {
        field: backbone(PERCEPTRON, modality, width, frozen=False)
        for field, modality in dataset.fields.items()
    }


def probed(encoder: Encoder, dataset: Dataset, parts: Parts, *, valid: bool = False) -> float:
    """Accuracy of a linear probe on the features of all tables side by side, mean over the draws.

    Args:
        encoder: of all tables.
        dataset: the tables.
        parts: see `division`.
        valid: on the validation part instead of the test part.
    """
    held = parts.valid if valid else parts.test
    return of_features(features(encoder, dataset, np.arange(len(dataset))), dataset, parts, held)


def of_features(
    whole: Embeddings, dataset: Dataset, parts: Parts, held: Sequence[int] | np.ndarray
) -> float:
    """The same of vectors of all records."""
    names = list(dataset.fields)
    vectors = (
        whole.columns[names[0]].values if len(names) == 1 else side_by_side(whole, names).values
    )
    return of_vectors(vectors, dataset, parts, held)


def of_vectors(
    vectors_ND: torch.Tensor, dataset: Dataset, parts: Parts, held: Sequence[int] | np.ndarray
) -> float:
    """The same of one vector a record."""
    label = dataset.label(LABEL)

    def column(rows: Sequence[int] | np.ndarray) -> Column:
        picked = torch.as_tensor(np.asarray(rows))
        return Column(vectors_ND[picked], torch.arange(len(picked)))

    return mean(probe(column(few), label[few], column(held), label[held]) for few in parts.few)


def simple_probed(dataset: Dataset, parts: Parts) -> float:
    """The same of simple features, which are fitted on all records to learn from: they need no label
    either."""
    names = list(dataset.fields)
    vectors = torch.zeros(0)
    for rows, part in zip((parts.train, parts.test), simple_pair(dataset, parts.train, parts.test)):
        both = part.features[names[0]] if len(names) == 1 else side_by_side(part.features, names)
        if not len(vectors):
            vectors = torch.zeros(len(dataset), both.values.shape[1], dtype=both.values.dtype)
        vectors[torch.from_numpy(rows)] = both.values
    return of_vectors(vectors, dataset, parts, parts.test)


def learnt(make: Make, dataset: Dataset, rows: np.ndarray, seed: int, steps: int) -> Encoder:
    """The encoder after training on the records `rows`, without labels."""
    budget, encoders = Budget(steps, BATCH), perceptrons(dataset, seed)
    return trained(dataset, rows, make, budget, seed, RATE, backbones=encoders).encoder


def accuracy(make: Make, dataset: Dataset, seed: int, row: int, steps: int) -> float:
    """What `probed` says of `learnt`, in the division of this seed and row."""
    parts = division(dataset, seed, row)
    return probed(learnt(make, dataset, parts.train, seed, steps), dataset, parts)


def floors(make: Make, dataset: Dataset, seed: int, row: int) -> Mapping[str, float]:
    """What a control arm has to clear: "untrained" is it before its first step."""
    parts, encoders = division(dataset, seed, row), perceptrons(dataset, seed)
    begun = untrained(dataset, make, Budget(1, BATCH), seed, backbones=encoders).eval().encoder
    return {
        "chance": 1 / len(np.unique(dataset.label(LABEL))),
        "untrained": probed(begun, dataset, parts),
        "simple features": simple_probed(dataset, parts),
    }
