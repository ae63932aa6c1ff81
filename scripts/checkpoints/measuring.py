"""What a checkpoint is asked, and what answers beside it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from amodal import Model, data
from amodal.evaluate import evaluate
from amodal.evaluate.class_truth import ONE_LABEL
from amodal.modalities.shared import rocket
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.encoder import Encoder
from amodal.train.packaged import match_inputs, resolve_specs

BALANCED, RECALL = "balanced accuracy", "recall@10"
SAME_PAIRS = "CCA, same pairs"
"""The closed form on what a checkpoint of heads has learnt from."""
OURS = ("trained", "joined", "untrained")
"""Columns that are no yardstick."""
Open = Callable[[], data.Dataset]
Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One question.

    Args:
        title: Of the row.
        data: Opens the records.
        source: Whose vectors are read: a field, or fused.
        protocol: Of `amodal.evaluate`.
        label: That is predicted, None for retrieval.
        target: The field that is found by `source`.
        few: Labels of each class that a probe has, None for all.
        records: At most so many to learn from and to test on.
        is_transfer: The data is another than the checkpoint was made from.
        options: Of the protocol.
        compared: Columns of what else is measured, None for all.
    """

    title: str
    data: Open
    source: str
    protocol: str = "linear"
    label: str | None = None
    target: str | None = None
    few: int | None = None
    records: int | None = None
    is_transfer: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    compared: tuple[str, ...] | None = None

    @property
    def metric(self) -> str:
        """The name of its number."""
        return RECALL if self.protocol == "retrieval" else BALANCED


_reports: dict[tuple[Any, ...], Any] = {}
Others = dict[str, Callable[[Task], Row]]
"""Column -> what gives the row whose value stands there."""


@dataclass
class Measured:
    """The outcome of a task.

    Args:
        task: Its title.
        metric: Of the values.
        n: Records that were tested.
        is_transfer: See `Task`.
        chance: A blind guess.
        values: Column -> value; `trained` is the checkpoint, `joined` has simple features beside.
        intervals: Column -> 95 % interval.
        lead: Column -> 95 % interval of what the checkpoint has more, where outcomes are paired.
    """

    task: str
    metric: str
    n: int
    is_transfer: bool
    chance: float
    values: dict[str, float]
    intervals: dict[str, list[float]]
    lead: dict[str, list[float]]

    as_dict = asdict


def row_of(model: Any, task: Task, metric: str = "", **settings: Any) -> tuple[Row, dict[str, str]]:
    """The row of a task in a report of `amodal evaluate`, and the names of simple features."""
    dataset = task.data()
    options = dict(task.options) | {"progress": False} | settings
    for name in ("label", "few", "records"):
        options |= {} if getattr(task, name) is None else {name: getattr(task, name)}
    run = model.evaluate if isinstance(model, Model) else partial(evaluate, model)
    asked = (id(model), id(dataset), task.protocol, repr(options))
    if asked not in _reports:  # both ways of a retrieval are rows of one report
        report = run(dataset, protocols=[task.protocol], **options)
        _reports[asked] = (report, model, dataset)  # whose ids nothing else may get
    report = _reports[asked][0]
    wanted = {"source": task.source, "metric": metric or task.metric}
    wanted |= {"target": task.target} if task.target else {}
    rows = [r for r in report.rows() if all(r.get(k) == v for k, v in wanted.items())]
    return rows[0], report.about.get("simple", {})


def measured(model: Model, task: Task, others: Others) -> Measured:
    """A checkpoint beside chance, itself untrained, simple features, and others.

    Args:
        model: The checkpoint.
        task: What is asked.
        others: What else is measured.
    """
    row, names = row_of(model, task)
    simple = " and ".join(dict.fromkeys(names.values())) or "simple features"
    columns = {"value": "trained", "untrained": "untrained", "simple": simple}
    columns |= {"joined": "joined", "frozen": "frozen, maps fitted there"}
    columns = {old: new for old, new in columns.items() if old in row}
    inside = {"value" if k == "trained" else k: v for k, v in row.get("intervals", {}).items()}
    found = Measured(
        task.title,
        task.metric,
        row["n"],
        task.is_transfer,
        row.get("chance", 0.0),
        {new: row[old] for old, new in columns.items()},
        {new: inside[old] for old, new in columns.items() if old in inside},
        {new: inside[f"trained - {c}"] for c, new in columns.items() if f"trained - {c}" in inside},
    )
    if task.protocol == "zero_shot":  # names need no label; a single one is the simple way
        one, names = row_of(model, task, ONE_LABEL)
        for old in ("simple", "frozen"):
            if old in one:
                found.values[f"{old}, 1 label a class"] = one[old]
                found.intervals[f"{old}, 1 label a class"] = one["intervals"][old]
    for name, of in others.items():
        if task.compared is None or name in task.compared:
            beside = of(task)
            found.values[name] = beside["value"]
            if "interval" in beside:
                found.intervals[name] = beside["interval"]
    return found


def by_statistics(model: Model) -> Others:
    """Statistics, where simple features are those of MiniRocket; nothing where they are not."""
    if rocket.transformer() is None or not any(is_series(m) for m in model.fields.values()):
        return {}

    def row(task: Task) -> Row:
        with patch.object(rocket, "transformer", lambda: None):
            found, _ = row_of(model, task, untrained=False)
        return {"value": found["simple"], "interval": found["intervals"]["simple"]}

    return {"statistics": row}


def is_series(modality: Any) -> bool:
    """Whether MiniRocket reads a field."""
    return bool(modality.kind == "series")


def by_run(model: Model) -> Callable[[Task], Row]:
    """Another run in the place of the checkpoint."""

    def row(task: Task) -> Row:
        found, _ = row_of(model, task, untrained=False, simple=False)
        inside = found.get("intervals", {})
        return {"value": found["value"]} | ({"interval": inside["trained"]} if inside else {})

    return row


def by_frozen(spec: str, name: str) -> Callable[[Task], Row]:
    """The mean states of a frozen encoder, with the probe of the checkpoint.

    Args:
        spec: Of the backbone.
        name: Of the field.
    """

    def row(task: Task) -> Row:
        dataset, specs = task.data(), resolve_specs({name: spec})
        modality = match_inputs(dataset, specs).fields[name]
        torch.manual_seed(0)
        made = Encoder(
            {name: modality}, size="nano", backbones={name: backbone(specs[name], modality, 64)}
        )
        there = replace(task, data=lambda: dataset.with_fields({name: modality}))
        found, _ = row_of(made.eval(), there, simple=False)
        return {"value": found["frozen"], "interval": found["intervals"]["frozen"]}

    return row


def mean_score(model: Model, tasks: Sequence[Task]) -> tuple[float, list[float]]:
    """The mean over tasks, and each."""
    scores = [row_of(model, t, untrained=False, simple=False)[0]["value"] for t in tasks]
    return sum(scores) / len(scores), scores
