"""Which records a model may be tested on: none that it was trained on, even where the data or its
split has changed since."""

from __future__ import annotations

from typing import Any

import numpy as np

from amodal.console import stderr
from amodal.core import AmodalError
from amodal.data import Dataset
from amodal.data.readers import Arrays
from amodal.evaluate.context import Run
from amodal.evaluate.needed_records import sampled
from amodal.inference.forward_passes import AnyEncoder
from amodal.train.run_dir import CHOSEN_ON, hash_keys

MIN_TEST_RECORDS = 100
"""Below which the validation part is tested on too, as it was not trained on either; but not a run
that was chosen on it, as by `amodal adapt`, `align` and `compare`."""
MIN_GROUPS = 8
"""Below which groups say too little to be drawn as wholes."""


def parts(
    model: Run | AnyEncoder, dataset: Dataset
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Choose training and test records.

    Args:
        model: A Model, whose training records are left out of the test part; or an encoder, of
            which these are unknown.
        dataset: The records.

    Returns:
        Indices to learn from, indices to test on, and what a report says about them.

    Raises:
        AmodalError: If there is nothing to learn from or to test on.
    """
    seen, warning = _seen(model, dataset)
    train, test, names = dataset.split("train"), dataset.split("test"), "test"
    chosen_on = model.config.get(CHOSEN_ON) if isinstance(model, Run) else None
    if (~seen[test]).sum() < MIN_TEST_RECORDS and chosen_on != "valid":
        test, names = np.sort(np.concatenate([test, dataset.split("valid")])), "test and validation"
    left_out, test = int(seen[test].sum()), test[~seen[test]]
    if left_out and not len(test):
        raise AmodalError(
            f"all {left_out:,} records of {dataset.name!r} that could be tested on have the keys "
            "of records that this run was trained on. Give data that it was not trained on, or "
            "train a new run with the split that the data has now."
        )
    if not len(train) or not len(test):
        left = f"{len(train)} to learn from and {len(test)} to test on"
        raise AmodalError(
            f"{dataset.name!r} has {len(dataset)} records, which leaves {left}; more are needed"
        )
    about = {"train": len(train), "test": len(test), "parts": f"train; {names}"}
    return (
        train,
        test,
        about
        | ({"left_out": left_out} if left_out else {})
        | ({"warning": warning} if warning else {}),
    )


def test_groups(dataset: Dataset, test: np.ndarray) -> np.ndarray | None:
    """Groups of the test records that resemble each other: those that `split_by` keeps together.

    Args:
        dataset: The records.
        test: (N,) numbers of the test records.

    Returns:
        (N,) codes; None where the split is of single records, or of fewer than `MIN_GROUPS` groups.
    """
    if not dataset.schema.split_by:
        return None
    cells = dataset.reader.cells(dataset.schema.split_by)
    # a record without a group is one by itself
    names = [f"{i}" if cells[i] is None else f"{cells[i]!r}:" for i in test.tolist()]
    group: np.ndarray = np.unique(names, return_inverse=True)[1]
    return group if group.max() + 1 >= MIN_GROUPS else None


def subset(
    train: np.ndarray, test: np.ndarray, records: int, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Draw at most so many training and test records.

    Args:
        train: Indices to learn from.
        test: Indices to test on.
        records: How many of each at most.
        seed: Of the draw.

    Returns:
        Both, ascending, and what a report says about them: nothing where all of them are taken.

    Raises:
        AmodalError: For fewer than two records.
    """
    if records < 2:
        raise AmodalError(
            f"records = {records}: at least 2 training and 2 test records are needed. "
            "Give a larger number, or leave it out for all records."
        )
    train_n, test_n = len(train), len(test)
    train, test = (sampled(part, records, seed) for part in (train, test))
    about: dict[str, Any] = {"train": len(train), "test": len(test)}
    if len(train) < train_n or len(test) < test_n:
        about["subset"] = (
            f"a subset, drawn with seed {seed}, of {train_n:,} training and {test_n:,} test records"
        )
    return train, test, about


def trained_on(run: Run, dataset: Dataset) -> np.ndarray:
    """(N,) bool, which records have keys of records that a run was trained on."""
    trained = run.trained
    return np.isin(hash_keys(dataset.keys), [] if trained is None else trained)


def _are_row_numbers(dataset: Dataset) -> bool:
    """Whether records are counted, and not named by a file or a column."""
    reader = dataset.reader
    while reader.reader is not None:
        reader = reader.reader
    keys = reader.keys
    return isinstance(reader, Arrays) and all(str(i) == key for i, key in enumerate(keys))


def _seen(model: Run | AnyEncoder, dataset: Dataset) -> tuple[np.ndarray, str]:
    """(N,) bool, which records the model was trained on, and a warning if their keys do not say."""
    run = model if isinstance(model, Run) else None
    trained = run.trained if run is not None else None
    data = run.config.get("data", {}) if run is not None else {}
    seen = np.zeros(len(dataset), dtype=bool) if run is None else trained_on(run, dataset)
    if data.get("fingerprint", dataset.fingerprint) == dataset.fingerprint:
        return seen, ""
    if trained is None:
        why = "the run does not say which records it was trained on"
    elif all(key.isdecimal() for key in dataset.keys):
        why = (
            "its keys are row numbers, which do not follow a record"
            if _are_row_numbers(dataset)
            else f"its keys are numbers, such as {dataset.keys[0]}, that others may have too"
        )
    elif not seen.any():
        why = "the run was trained on none of its keys"
    else:
        return seen, ""
    warning = (
        f"{dataset.name!r} is not the data that the run was trained on "
        f"({data.get('path') or data.get('name')}), and {why}. If some of its records were trained "
        "on under other keys (from another folder, say), they are tested on too and the results "
        "flatter."
    )
    stderr().print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    return seen, warning
