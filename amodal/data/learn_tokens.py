"""Tokens that are learnt from training records: the subwords of text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from amodal.core import AmodalError
from amodal.data.dataset import Dataset
from amodal.data.remote import Unreachable
from amodal.modalities import Modality, Raw
from amodal.modalities.shared.learnt import LearnsTokens

Decide = Callable[[], str]


def learn_tokens(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    *,
    known: Collection[str] = (),
    agree: Callable[[Decide], str] = lambda decide: decide(),
) -> Dataset:
    """The dataset with the tokens of its fields learnt from some of its records.

    Args:
        dataset: to learn from.
        rows: (n,) the training records. No other is read.
        known: fields that stay as they are.
        agree: calls a function in one process and gives its result to all, as
            `train.distributed.from_first`.

    Returns:
        The same records; the dataset itself where nothing is to be learnt.
    """
    learnt: dict[str, Modality] = {}
    for name, modality in dataset.fields.items():
        if name in known or not isinstance(modality, LearnsTokens) or not modality.learns_tokens:
            continue
        found = agree(partial(modality.learn_tokens, _values(dataset, rows, name)))
        learnt[name] = modality.with_learnt(found)
    changed = any(modality != dataset.fields[name] for name, modality in learnt.items())
    return dataset.with_fields(dataset.fields | learnt) if changed else dataset


def _values(dataset: Dataset, rows: npt.NDArray[np.int64], name: str) -> Iterator[Raw]:
    """The values of a field, mixed, so that the first of them are like all: the same order each
    time."""
    for i in np.random.default_rng(0).permutation(rows).tolist():
        try:
            raw = dataset.raw(i, name)
        except Unreachable:
            raise
        except AmodalError:  # it goes into quarantine when it is loaded
            continue
        if raw is not None:
            yield raw
