"""What a comparison is about: a label, or retrieval between fields, or no label at all."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.evaluate import survival_label, usual_label
from amodal.evaluate.labels import is_number
from amodal.inference.embed import known

TASKS = ("linear", "knn", "retrieval", "label-free")
METRICS = {
    "class": ("balanced accuracy", "accuracy", "macro F1", "AUROC"),
    "number": ("Spearman", "R2"),
}
"""Of a label by its kind; the first is the default."""
RECALL = 10
"""K of Recall@K, which is asked of retrieval."""
MIN_RECORDS = 20
"""Training records below which a comparison would compare noise."""
MIN_MEASURED = 8
"""Records of the validation part below which nothing can be told from chance."""


@dataclass(frozen=True)
class Asked:
    """A question, see `amodal.studies.questions.Question`.

    Args:
        name: For people.
        protocol: Of `amodal.evaluate`.
        row_metric: The metric of its rows.
        label: What is predicted, None without a label.
        fields: What it is predicted from, () for all; (query, gallery) for retrieval.
    """

    name: str
    protocol: str
    row_metric: str
    label: str | None = None
    fields: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Of the protocol: what is judged by balanced accuracy is fitted so that classes weigh the
        same."""
        weighs = self.protocol in ("linear", "boosting") and self.row_metric == "balanced accuracy"
        return {"class_weight": "balanced"} if weighs else {}

    def with_protocol(self, protocol: str) -> Asked:
        """The same question by another protocol with the same metrics."""
        return replace(self, protocol=protocol)


@dataclass(frozen=True)
class Task:
    """What candidates are compared by.

    Args:
        kind: "label", "survival", "retrieval" or "label-free".
        questions: At least one, but for "label-free" without a second field.
        label: What is predicted, None without a label.
    """

    kind: str
    questions: tuple[Asked, ...]
    label: str | None = None

    @property
    def title(self) -> str:
        """For a heading."""
        if self.kind == "label-free":
            return "without labels, by RankMe"
        if self.kind == "retrieval":
            return f"{self.questions[0].row_metric} between fields"
        return f"{self.label} ({self.questions[0].row_metric}, {self.questions[0].protocol})"


def task_of(
    dataset: Dataset, label: str | None = None, task: str = "auto", metric: str = "auto"
) -> Task:
    """The task of a comparison.

    Args:
        dataset: With the fields to learn from.
        label: What is to be predicted; TIME,EVENT for a survival time. By default the label of the
            data that people care about.
        task: linear or knn (how a label is predicted), retrieval, label-free; auto is linear where
            there is a label, else retrieval where there are two fields, else label-free.
        metric: Of a label, one of `METRICS`; auto is balanced accuracy of classes and Spearman's
            correlation of numbers. What is judged by balanced accuracy is fitted so that classes
            weigh the same.

    Raises:
        AmodalError: For a task that this data does not have, or that cannot be measured on it.
    """
    if task not in ("auto", *TASKS):
        raise unknown("task of a comparison", task, ("auto", *TASKS))
    if label is not None and task in ("retrieval", "label-free"):
        raise AmodalError(f"the task {task} reads no label; leave out --label {label}, or --task")
    check_parts(dataset)
    if label is None and task in ("auto", "linear", "knn"):
        label = survival_label(dataset) or next(iter(usual_label(dataset)), None)
        if label is None and task != "auto":
            raise AmodalError(f"{dataset.name} has no label, and the task {task} predicts one")
    if label is not None and task in ("auto", "linear", "knn"):
        return _labelled(dataset, label, "linear" if task == "auto" else task, metric)
    if metric != "auto":
        raise AmodalError(f"a metric is of a label, and nothing is predicted here; {NO_METRIC}")
    if task == "retrieval" or (task == "auto" and len(dataset.fields) > 1):
        return Task("retrieval", _retrieval(dataset))
    return Task("label-free", ())


def check_parts(dataset: Dataset) -> None:
    """Raise an AmodalError where there are too few records to compare anything."""
    for part, least in (("train", MIN_RECORDS), ("valid", MIN_MEASURED)):
        count = len(dataset.split(part))
        if count < least:
            raise AmodalError(
                f"{dataset.name} has {count} records in its {part} part, and a comparison needs "
                f"{least} at least: with so few, differences between methods are noise. "
                f"It has {len(dataset):,} records in all; bring more"
            )


NO_METRIC = "leave out --metric, or name a --label of classes or numbers"


def _labelled(dataset: Dataset, label: str, protocol: str, metric: str) -> Task:
    name = ",".join(part.strip() for part in label.split(","))
    if "," in name and name not in dataset.labels:
        if name.count(",") != 1:
            raise AmodalError(f"a survival time is TIME,EVENT, not {label!r}; compare one label")
        for column in name.split(","):
            dataset.label(column, required=True)
        if metric not in ("auto", "concordance"):
            raise AmodalError(f"survival is judged by concordance, not by {metric}; {NO_METRIC}")
        return Task("survival", (Asked(name, "survival", "concordance", name),), name)
    values = dataset.label(name, required=True)
    number = is_number(values)
    for part in ("train", "valid"):
        have = values[dataset.split(part)]
        have = have[known(have)]
        if not len(have):
            raise AmodalError(f"no record of the {part} part has the label {name!r}")
        if len(np.unique(have.astype(float if number else str))) < 2:
            raise AmodalError(
                f"all {len(have)} labelled records of the {part} part have {name} = {have[0]!r}, "
                "so there is nothing to predict; choose another --label, or --task label-free"
            )
    known_metrics = [
        m
        for m in METRICS["number" if number else "class"]
        # neighbours vote, without probabilities
        if (m, protocol) != ("AUROC", "knn")
    ]
    chosen = known_metrics[0] if metric == "auto" else metric
    if chosen not in known_metrics:
        raise unknown(f"metric of {name} by {protocol}", chosen, known_metrics)
    return Task("label", (Asked(name, protocol, chosen, name),), name)


def _retrieval(dataset: Dataset) -> tuple[Asked, ...]:
    train, valid = dataset.split("train"), dataset.split("valid")
    asked = []
    for a, b in itertools.permutations(dataset.fields, 2):
        both = dataset.present(a) & dataset.present(b)
        if both[train].sum() >= MIN_RECORDS and both[valid].sum() >= MIN_MEASURED:
            asked.append(Asked(f"{b} by {a}", "retrieval", f"recall@{RECALL}", None, (a, b)))
    if not asked:
        raise AmodalError(
            f"retrieval needs records with two fields: {MIN_RECORDS} in the training part and "
            f"{MIN_MEASURED} in the validation part. {dataset.name} has the fields "
            f"{', '.join(dataset.fields)}, and no two of them in so many records"
        )
    return tuple(asked)
