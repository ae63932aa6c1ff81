"""Tokens that are learnt from training records: the subwords of text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, cast

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
    shared: bool = False,
) -> Dataset:
    """The dataset with the tokens of its fields learnt from some of its records.

    Args:
        dataset: to learn from.
        rows: (n,) the training records. No other is read.
        known: fields that stay as they are.
        agree: calls a function in one process and gives its result to all, as
            `train.distributed.from_first`.
        shared: one vocabulary for all fields of one kind of tokens, learnt from the values of all;
            where one of them has a vocabulary, it is that.

    Returns:
        The same records; the dataset itself where nothing is to be learnt.
    """
    learnt: dict[str, Modality] = {}
    for names in _groups(dataset, shared):
        open_ = [n for n in names if n not in known and _learns(dataset.fields[n])]
        if not open_:
            continue
        first = cast(LearnsTokens, dataset.fields[open_[0]])
        there = [merges for n in names if (merges := getattr(dataset.fields[n], "merges", ""))]
        values = _in_turn([_values(dataset, rows, name) for name in open_])
        found = there[0] if shared and there else agree(partial(first.learn_tokens, values))
        for name in open_:
            learnt[name] = cast(LearnsTokens, dataset.fields[name]).with_learnt(found)
        if shared and not found:
            learnt |= _of_one_patch({n: learnt[n] for n in open_})
    changed = any(modality != dataset.fields[name] for name, modality in learnt.items())
    return dataset.with_fields(dataset.fields | learnt) if changed else dataset


def _learns(modality: Modality) -> bool:
    return isinstance(modality, LearnsTokens) and modality.learns_tokens


def _groups(dataset: Dataset, shared: bool) -> list[list[str]]:
    """The fields that learn tokens, or have learnt some, with those that they share them with."""
    groups: dict[object, list[str]] = {}
    for name, modality in dataset.fields.items():
        if isinstance(modality, LearnsTokens):
            kind = [getattr(modality, a, "") for a in ("tokens", "vocabulary", "vocabulary_size")]
            groups.setdefault((type(modality), *kind) if shared else name, []).append(name)
    return [*groups.values()]


def _of_one_patch(fields: Mapping[str, Modality]) -> dict[str, Modality]:
    """Texts of bytes with as many bytes a token as the shortest has, and room for as many bytes as
    before."""
    texts: dict[str, Any] = {name: m for name, m in fields.items() if m.takes_prompts}
    patch = min((m.patch for m in texts.values()), default=1)
    return {
        name: replace(m, patch=patch, max_length=-(-m.max_length * m.patch // patch))
        for name, m in texts.items()
    }


def _in_turn(lists: Sequence[Iterator[Raw]]) -> Iterator[Raw]:
    """A value of each, then the next of each: a shorter one ends earlier."""
    nothing = object()
    for values in zip_longest(*lists, fillvalue=nothing):
        yield from (cast(Raw, value) for value in values if value is not nothing)


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
