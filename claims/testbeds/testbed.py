"""What a testbed is: a real set with a fixed split, the questions asked of it, and who else answers.

The types alone. A page in `testbeds/pages/` makes one testbed; `testbeds.testbed("digits")` gets it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.data import Dataset, bundled, sets
from amodal.data import open as open_data
from amodal.modalities import BadValue

METRICS: dict[str, dict[str, str]] = {
    "linear": {
        "balanced accuracy": "balanced accuracy",
        "accuracy": "accuracy",
        "Spearman": "Spearman",
        "R2": "R2",
    },
    "knn": {"balanced accuracy": "balanced accuracy", "accuracy": "accuracy"},
    "retrieval": {"R@10": "recall@10", "R@1": "recall@1", "R@5": "recall@5"},
    "survival": {"concordance": "concordance"},
}
"""Protocol -> metric of a task -> its name in the rows of a report."""

NUMBERS = ("Spearman", "R2")
"""Metrics of labels that are numbers."""


@dataclass(frozen=True)
class Task:
    """One question about the records; the first of a testbed is its primary one.

    Args:
        name: "exercise from the accelerometer".
        protocol: of `amodal.evaluate`: "linear", "knn", "retrieval" or "survival".
        metric: one of `METRICS[protocol]`; higher is better.
        label: what is predicted, "TIME,EVENT" for survival, None for retrieval.
        fields: what it is predicted from, () for all fields together; (from, to) for retrieval.
    """

    name: str
    protocol: str
    metric: str
    label: str | None = None
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.protocol not in METRICS:
            raise unknown("protocol of a task", self.protocol, METRICS)
        if self.metric not in METRICS[self.protocol]:
            raise unknown(f"metric of {self.protocol}", self.metric, METRICS[self.protocol])
        if self.protocol == "retrieval":
            if len(self.fields) != 2 or self.label is not None:
                raise AmodalError(
                    f"the task {self.name!r} is a retrieval: it needs two fields (from, to) and no "
                    f"label, and has fields {self.fields} and label {self.label!r}"
                )
        elif not self.label or (self.label.count(",") == 1) != (self.protocol == "survival"):
            needed = "TIME,EVENT" if self.protocol == "survival" else "the name of one label"
            raise AmodalError(
                f"the task {self.name!r} ({self.protocol}) needs label={needed!r}, "
                f"not {self.label!r}"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels that it reads."""
        return tuple(self.label.split(",")) if self.label else ()

    @property
    def row_metric(self) -> str:
        """What its metric is called in the rows of a report."""
        return METRICS[self.protocol][self.metric]

    @property
    def options(self) -> dict[str, Any]:
        """Of the protocol: none, so classes weigh as many records as they have."""
        return {}

    @property
    def is_number(self) -> bool:
        """Whether it predicts a number."""
        return self.metric in NUMBERS

    def source(self, fields: Sequence[str]) -> str | None:
        """The source that a probe of it reads, as in the rows of a report.

        Args:
            fields: of the encoder.

        Returns:
            The field; "fused" for all fields together; None for retrieval and for some fields of
            more, whose vectors have to be fused first (`Embedded.fused`).
        """
        if self.protocol == "retrieval":
            return None
        chosen = self.fields or tuple(fields)
        if len(chosen) == 1:
            return chosen[0]
        return "fused" if set(chosen) == set(fields) else None


@dataclass(frozen=True)
class Records:
    """Some records of a dataset, as a peer reads them.

    Args:
        dataset: where they are.
        rows: (n,) their numbers.
    """

    dataset: Dataset
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> list[str]:
        """Their n keys."""
        return [self.dataset.keys[i] for i in self.rows]

    def label(self, name: str) -> np.ndarray:
        """(n,) values of a label, see `Dataset.label`."""
        return np.asarray(self.dataset.label(name)[self.rows])

    def raw(self, field: str) -> list[Any]:
        """n values as the data holds them, None where a record has none."""
        return [self.dataset.raw(int(i), field) for i in self.rows]

    def values(self, field: str) -> list[np.ndarray | None]:
        """n decoded values, None where a record has none or where it cannot be decoded."""
        return [self._value(int(i), field) for i in self.rows]

    def _value(self, i: int, field: str) -> np.ndarray | None:
        try:
            return self.dataset.value(i, field)
        except BadValue:  # the loader leaves it out too
            return None

    def at(self, chosen: np.ndarray) -> Records:
        """The records at these places, (m,) int64 or (n,) bool."""
        return Records(self.dataset, self.rows[chosen])


Predict = Callable[[Records], np.ndarray]
"""n records -> (n,) classes (objects of str), numbers or risks; (n, n) similarities of query i and
gallery value j for retrieval."""

Fit = Callable[..., Predict]
"""fit(train: Records, task: Task, **options) -> Predict."""


@dataclass(frozen=True)
class Peer:
    """What a practitioner would fit in an afternoon, for some tasks of a testbed.

    Args:
        name: "logistic regression on pixels".
        library: the distribution that fits it, "scikit-learn"; "amodal" for our own.
        fit: of training records; without options it has the library's documented defaults.
        tasks: names of the tasks that it is for, () for all of the testbed.
        grid: options that "tuned" tries on records apart, () for a peer with nothing to tune.
    """

    name: str
    library: str
    fit: Fit
    tasks: tuple[str, ...] = ()
    grid: tuple[Mapping[str, Any], ...] = ()

    @property
    def version(self) -> str | None:
        """Of the library here, None where it is not installed."""
        try:
            return importlib.metadata.version(self.library)
        except importlib.metadata.PackageNotFoundError:
            return None


@dataclass(frozen=True)
class Testbed:
    """A real set, its split and its tasks.

    Args:
        name: of the page.
        title: what it is, in a line.
        data: what `amodal.open` takes: the name of a bundled or a public set.
        fields: that are read.
        tasks: the first is the primary one.
        steps: of training, at which a control has learnt; see `results/budgets/NAME.json`.
        batch_size: of training.
        size: of the encoder.
        peers: other ways to do the tasks.
        backbones: field -> frozen pretrained encoder, {} for a testbed that is learnt from scratch.
        card: what it is, licence, size, split, known leaks; Markdown.
        family: testbeds that count as one in a mean over testbeds, as they are small and alike; its
            own name unless set.
    """

    __test__ = False  # the name is not that of a test

    name: str
    title: str
    data: str
    fields: tuple[str, ...]
    tasks: tuple[Task, ...]
    steps: int
    batch_size: int
    size: str
    card: str
    peers: tuple[Peer, ...] = ()
    backbones: Mapping[str, str] = field(default_factory=dict)
    family: str = ""

    def __post_init__(self) -> None:
        if not self.fields or not self.tasks:
            raise AmodalError(f"the testbed {self.name!r} needs at least one field and one task")
        if not self.family:
            object.__setattr__(self, "family", self.name)
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise AmodalError(f"two tasks of the testbed {self.name!r} have one name: {names}")
        for one in self.tasks:
            for used in one.fields:
                if used not in self.fields:
                    raise unknown(f"field of the testbed {self.name}", used, self.fields)
        for used in self.backbones:
            if used not in self.fields:
                raise unknown(f"field of the testbed {self.name}", used, self.fields)
        for peer in self.peers:
            for used in peer.tasks:
                if used not in names:
                    raise unknown(f"task of the testbed {self.name}", used, names)
        if self.steps < 1 or self.batch_size < 2:
            raise AmodalError(
                f"the testbed {self.name!r} has {self.steps} steps of {self.batch_size} records; "
                "at least 1 step of 2 is needed"
            )

    @property
    def primary(self) -> Task:
        """The task that the testbed is for."""
        return self.tasks[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that its tasks read."""
        return tuple(dict.fromkeys(name for one in self.tasks for name in one.labels))

    def task(self, name: str) -> Task:
        """One of its tasks.

        Raises:
            AmodalError: it has none of that name.
        """
        for one in self.tasks:
            if one.name == name:
                return one
        raise unknown(f"task of the testbed {self.name}", name, [one.name for one in self.tasks])

    @property
    def is_here(self) -> bool:
        """Whether its data is bundled or in the cache, so that `open` downloads nothing."""
        if self.data in sets.names():
            return sets.is_built(self.data)
        return self.data in bundled.NAMES or Path(self.data).exists()

    def open(self) -> Dataset:
        """Its records, with its fields only; all labels. Fetches a public set that is not here.

        Raises:
            AmodalError: the set is not known, cannot be fetched, or lacks a field.
        """
        if not self.is_here and self.data not in sets.names():
            raise AmodalError(
                f"the testbed {self.name!r} reads the set {self.data!r}, which comes with "
                "amodal-claims. Install that anew (pip install ./claims), as its list of sets is "
                "older than this page."
            )
        sets.ensure(self.data)
        return open_data(self.data).select(self.fields)

    def peers_of(self, one: Task) -> list[Peer]:
        """The peers that do a task."""
        return [peer for peer in self.peers if not peer.tasks or one.name in peer.tasks]
