"""What a checkpoint is asked, and what answers beside it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest.mock import patch

import torch

from amodal import Model, data
from amodal.evaluate import evaluate
from amodal.modalities.shared import rocket
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.encoder import Encoder
from amodal.train.packaged import match_inputs, resolve_specs

BALANCED, RECALL = "balanced accuracy", "recall@10"
Open = Callable[[], data.Dataset]


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

    @property
    def metric(self) -> str:
        """The name of its number."""
        return RECALL if self.protocol == "retrieval" else BALANCED


@dataclass
class Measured:
    """The outcome of a task.

    Args:
        task: Its title.
        metric: Of the values.
        n: Records that were tested.
        few: Labels of each class, None for all.
        is_transfer: See `Task`.
        chance: A blind guess.
        values: Column -> value; `trained` is the checkpoint, `joined` has simple features beside.
        intervals: Column -> 95 % interval.
        lead: Column -> 95 % interval of what the checkpoint has more, where outcomes are paired.
    """

    task: str
    metric: str
    n: int
    few: int | None
    is_transfer: bool
    chance: float
    values: dict[str, float]
    intervals: dict[str, list[float]]
    lead: dict[str, list[float]]

    @property
    def simple(self) -> str:
        """The best column that needs no training of ours."""
        ours = ("trained", "joined", "untrained")
        return max((c for c in self.values if c not in ours), key=lambda c: self.values[c])

    as_dict = asdict


def rows_of(model: Any, task: Task, **settings: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The row of a task in a report of `amodal evaluate`, and the names of simple features."""
    dataset = task.data()
    options = task.options | ({} if task.few is None else {"few": task.few})
    options |= settings | ({} if task.records is None else {"records": task.records})
    options |= {"label": task.label} if task.label else {}
    if isinstance(model, Model):
        report = model.evaluate(dataset, protocols=[task.protocol], progress=False, **options)
    else:
        report = evaluate(model, dataset, protocols=[task.protocol], progress=False, **options)
    wanted = {"source": task.source, "metric": task.metric} | (
        {"target": task.target} if task.target else {}
    )
    row = next(r for r in report.rows() if all(r.get(k) == v for k, v in wanted.items()))
    return row, report.about.get("simple", {})


def measured(
    model: Model, task: Task, others: dict[str, Callable[[Task], dict[str, Any]]]
) -> Measured:
    """A checkpoint beside chance, itself untrained, simple features, and others.

    Args:
        model: The checkpoint.
        task: What is asked.
        others: Column -> what gives the row of it.
    """
    row, names = rows_of(model, task)
    simple = " and ".join(dict.fromkeys(names.values())) or "simple"
    columns = {"trained": "trained", "untrained": "untrained", "simple": simple, "joined": "joined"}
    values = {
        new: row["value"] if c == "trained" else row[c]
        for c, new in columns.items()
        if c == "trained" or c in row
    }
    frozen = {"frozen": "frozen, maps fitted here"} if "frozen" in row else {}
    values |= {new: row[c] for c, new in frozen.items()}
    inside = row.get("intervals", {})
    intervals = {new: inside[c] for c, new in (columns | frozen).items() if c in inside}
    lead = {
        new: inside[f"trained - {c}"]
        for c, new in (columns | frozen).items()
        if f"trained - {c}" in inside
    }
    for name, of in others.items():
        beside = of(task)
        values[name] = beside["value"]
        intervals |= {name: beside["intervals"]["trained"]} if "intervals" in beside else {}
    return Measured(
        task.title,
        task.metric,
        row["n"],
        task.few,
        task.is_transfer,
        row.get("chance", 0.0),
        values,
        intervals,
        lead,
    )


@contextmanager
def statistics() -> Iterator[None]:
    """Inside, simple features of series are statistics although MiniRocket is installed."""
    with patch.object(rocket, "transformer", lambda: None):
        yield


def by_statistics(model: Model) -> Callable[[Task], dict[str, Any]]:
    """Gives the row of statistics, where simple features are those of MiniRocket."""

    def row(task: Task) -> dict[str, Any]:
        with statistics():
            found, _ = rows_of(model, task, untrained=False)
        return {"value": found["simple"], "intervals": {"trained": found["intervals"]["simple"]}}

    return row


def by_frozen(spec: str, name: str) -> Callable[[Task], dict[str, Any]]:
    """Gives the row of a frozen encoder's mean states."""

    def row(task: Task) -> dict[str, Any]:
        dataset = task.data()
        specs = resolve_specs({name: spec})
        field_ = match_inputs(dataset, specs).fields[name]
        torch.manual_seed(0)
        made = Encoder(
            {name: field_}, size="nano", backbones={name: backbone(specs[name], field_, 64)}
        )
        there = Task(**(vars(task) | {"data": lambda: dataset.with_fields({name: field_})}))
        found, _ = rows_of(made.eval(), there, simple=False)
        return {"value": found["frozen"], "intervals": {"trained": found["intervals"]["frozen"]}}

    return row


def mean_score(model: Model, tasks: Sequence[Task]) -> tuple[float, list[float]]:
    """The mean over tasks, and each."""
    scores = [rows_of(model, t, untrained=False, simple=False)[0]["value"] for t in tasks]
    return sum(scores) / len(scores), scores
