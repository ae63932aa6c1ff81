"""One sentence about a report: what the encoder is good for, and where the simple thing wins.

Differences are called where they exceed their 95 % interval. Rows have no outcomes of single
records, so it is that of two independent shares (Agresti and Coull 1998), which is wider than the
interval of paired outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from amodal.evaluate.row import Row

CALLED = ("balanced accuracy", "Spearman", "concordance")
"""The metrics that are compared, and Recall@k of the largest k. Accuracy is not among them: it
praises a guess of the most frequent class."""
SHOWN = 3
"""Tasks of one kind that a sentence names."""
QUANTILE = 1.96
LEAST = 0.01
"""Differences below are not called: two decimals do not show them."""


@dataclass(frozen=True)
class Score:
    """The best of some protocols.

    Args:
        value: Of the metric.
        error: Its standard error.
        protocol: Which it is.
    """

    value: float
    error: float
    protocol: str

    def above(self, other: Score | None) -> bool:
        """Whether it is higher, by more than the interval of the difference; than None it is."""
        if other is None:
            return True
        interval = QUANTILE * math.hypot(self.error, other.error)
        return self.value - other.value > max(interval, LEAST)


@dataclass(frozen=True)
class Task:
    """One question that protocols have an answer to.

    Args:
        name: For people, such as "folder from text".
        trained: The best of the trained encoder.
        simple: The best of simple features, if measured.
        untrained: The best of the untrained encoder, if measured.
        chance: By chance.
        labelled: Whether it is about a label, for which there is more than one protocol.
    """

    name: str
    trained: Score
    simple: Score | None
    untrained: Score | None
    chance: Score
    labelled: bool


def summary(rows: Sequence[Row]) -> str:
    """A sentence about the rows of a report; "" where none of them can be compared."""
    simple, better, idle, nothing, equal = (list[str]() for _ in range(5))
    for task in tasks(rows):
        name, trained = task.name, task.trained
        if task.simple is not None and task.simple.above(trained):
            protocol = f"{task.simple.protocol} " if task.labelled else ""
            wins = f"{protocol}{short(task.simple.value)} against {short(trained.value)}"
            simple.append(f"{name} ({wins})")
        elif not trained.above(task.chance):
            nothing.append(name)
        elif not trained.above(task.simple):
            equal.append(name)
        elif not trained.above(task.untrained):
            idle.append(name)
        else:
            others = [s.value for s in (task.simple, task.untrained) if s is not None]
            gain = trained.value - max(others or [task.chance.value])
            better.append(f"{name} by {short(gain)}")
    parts = [
        ("simple features are better for ", simple),
        ("the trained encoder is better for ", better),
        ("it is no better than the untrained encoder for ", idle),
        ("it is no better than simple features for ", equal),
        ("it is not above chance for ", nothing),
    ]
    text = "; ".join(start + _listed(names) for start, names in parts if names)
    if not better:
        text = text.replace("it is", "the trained encoder is", 1)
    return text + "." if text else ""


def tasks(rows: Iterable[Row]) -> list[Task]:
    """What the protocols that are compared with simple features ask, over all of them."""
    from amodal.evaluate.protocol_registry import protocol_of_report

    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not protocol_of_report(row["protocol"]).yardstick:
            continue
        metric, target = row["metric"], row.get("target", "")
        recall = metric.startswith("recall@")
        if metric not in CALLED and not recall:
            continue
        name = f"{row['label']} from {row['source']}" if row.get("label") else ""
        name = f"retrieval of {target} by {row['source']}" if target else name
        groups.setdefault((name, "recall" if recall else metric), []).append(row)
    found = []
    for (name, kind), same in groups.items():
        if kind == "recall":
            most = max(same, key=lambda row: int(row["metric"].partition("@")[2]))
            same = [most]
        trained = _best(same, "value")
        if trained is None or not name:
            continue
        chance = Score(max(float(row["chance"]) for row in same), 0.0, "chance")
        others = _best(same, "simple"), _best(same, "untrained")
        found.append(Task(name, trained, *others, chance, kind != "recall"))
    return found


def _best(rows: Iterable[Row], column: str) -> Score | None:
    scores = [
        Score(float(row[column]), standard_error(row, column), row["protocol"])
        for row in rows
        if column in row and math.isfinite(row[column])
    ]
    return max(scores, key=lambda score: score.value, default=None)


def standard_error(row: Row, column: str = "value") -> float:
    """Of a value of a row: the largest of those that apply."""
    n, value = int(row["n"]), float(row[column])
    if row["metric"] == "Spearman":  # Bonett and Wright 2000
        sampling = (1 - value**2) * math.sqrt((1 + value**2 / 2) / max(n - 3, 1))
    else:
        share = (min(max(value, 0.0), 1.0) * n + 2) / (n + 4)
        sampling = math.sqrt(share * (1 - share) / (n + 4))
    low, high = row.get("interval", (0.0, 0.0))
    drawn = (high - low) / 2 / QUANTILE if math.isfinite(high - low) else 0.0
    return max(sampling, drawn, float(row.get("standard_error", 0.0)))


def short(value: float) -> str:
    """Two decimals, without the zero in front of them."""
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def _listed(names: Sequence[str]) -> str:
    shown = [*names[:SHOWN]]
    if len(names) > SHOWN:
        shown.append(f"{len(names) - SHOWN} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
