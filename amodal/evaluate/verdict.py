"""One sentence about a report: what the encoder is good for, and where the simple thing wins.

Differences are called where their 95 % interval excludes 0: that of paired outcomes where rows have
outcomes of the single records, else that of two independent shares, which is wider. The largest
differences are named first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from amodal.core.embeddings import FUSED
from amodal.evaluate.intervals import column_interval, difference, independent
from amodal.evaluate.row import Row
from amodal.stats.paired_bootstrap import Bootstrap, Outcome

CALLED = ("balanced accuracy", "Spearman", "concordance", "AUROC, mean of classes")
"""The metrics that are compared, and Recall@k of the largest k. Accuracy is not among them: it
praises a guess of the most frequent class."""
SHOWN = 3
"""Tasks of one kind that a sentence names."""
LEAST = 0.01
"""Differences below are not called: two decimals do not show them."""
COMMON = 0.5
"""The share of a class from which a sentence names it, if it is also `COMMON_TIMES` an even one."""
COMMON_TIMES = 1.4
SIMPLE = "simple features"
OWN_TEXT = "simple features of the own text"
"""What stands beside classes by their names."""
BEFORE = {"untrained": "the untrained encoder", "frozen": "its pretrained model"}


@dataclass(frozen=True)
class Score:
    """A value of a row.

    Args:
        row: The row.
        column: Of the row; "value" is the trained encoder's.
        outcome: Of the single records, if there are any.
        bootstrap: Draws of the records, if there are any.
    """

    row: Row
    column: str
    outcome: Outcome | None = field(default=None, compare=False)
    bootstrap: Bootstrap | None = field(default=None, compare=False)

    @property
    def value(self) -> float:
        """Of the metric."""
        return float(self.row[self.column])

    @property
    def protocol(self) -> str:
        """Which it was measured by."""
        return str(self.row["protocol"])

    def above(self, other: Score | None) -> bool:
        """Whether it is higher, by more than the interval of the difference; than None it is."""
        if other is None:
            return True
        interval = difference(self.outcome, other.outcome, self.bootstrap)
        interval = interval or independent(self.row, self.column, other.row, other.column)
        low = interval[0] if interval is not None else 0.0
        return low > 0 and self.value - other.value > LEAST

    def above_number(self, number: float) -> bool:
        """Whether it is higher than a number, such as chance, by more than its interval."""
        interval = column_interval(self.row, self.column, self.outcome, self.bootstrap)
        low = interval[0] if interval is not None else self.value
        return low > number and self.value - number > LEAST


@dataclass(frozen=True)
class Task:
    """One question that protocols have an answer to.

    Args:
        name: For people, such as "folder from text".
        trained: The best of the trained encoder.
        simple: The best of simple features, if measured.
        before: The best of the pretrained model, else of the untrained encoder, if measured.
        chance: By chance.
        labelled: Whether it is about a label, for which there is more than one protocol.
        compared: Whether simple features are measured on it.
        joined: The best of both side by side, if measured.
        against_chance: Whether it is said where it is below chance, whatever else is said.
    """

    name: str
    trained: Score
    simple: Score | None
    before: Score | None
    chance: float
    labelled: bool
    compared: bool = True
    joined: Score | None = None
    against_chance: bool = False

    @property
    def together(self) -> bool:
        """Whether the encoder and simple features are better side by side than each alone."""
        alone = [one for one in (self.trained, self.simple) if one is not None]
        return self.joined is not None and all(self.joined.above(one) for one in alone)


Named = tuple[float, str]
"""A gap and the text that names it."""


def summary(
    rows: Sequence[Row],
    outcomes: Sequence[Mapping[str, Outcome]] = (),
    bootstrap: Bootstrap | None = None,
    simple: Mapping[str, str] | None = None,
) -> str:
    """A sentence about the rows of a report; "" where none of them can be compared.

    Args:
        rows: The rows.
        outcomes: For each row, column -> the outcomes of single records.
        bootstrap: Draws of these records.
        simple: Field -> what its simple features are called.
    """
    loses, wins, spoilt, idle, equal, nothing, below, both = (list[Named]() for _ in range(8))
    beaten = False
    for task in tasks(rows, outcomes, bootstrap):
        name, trained = task.name, task.trained
        beaten |= task.simple is not None and trained.above(task.simple)
        if task.together and task.joined is not None and task.simple is not None:
            alone = max(trained.value, task.simple.value)
            figures = pair(task.joined.value, alone, ", the better one alone ")
            both.append((task.joined.value - alone, f"{name} ({figures})"))
        spoils = task.before is not None and task.before.above(trained)
        if spoils and task.before is not None:
            figures = f"{_before(task.before)} {pair(task.before.value, trained.value)}"
            spoilt.append((task.before.value - trained.value, f"{name} ({figures})"))
        if task.simple is not None and task.simple.above(trained):
            gap = task.simple.value - trained.value
            loses.append((gap, _use(task, task.simple, simple or {})))
            if task.against_chance and trained.value < task.chance - LEAST:
                figures = pair(trained.value, task.chance, " against ")
                below.append((task.chance - trained.value, f"{name} ({figures})"))
        elif not trained.above_number(task.chance):
            figures = pair(trained.value, task.chance, " against ")
            if trained.value < task.chance and len({*figures.split(" against ")}) > 1:
                below.append((task.chance - trained.value, f"{name} ({figures})"))
            else:
                nothing.append((task.chance - trained.value, name))
        elif not task.compared or spoils:
            continue
        elif not trained.above(task.simple):
            equal.append((0.0, name))
        elif not trained.above(task.before):
            idle.append((0.0, f"{_before(task.before)} for {name}" if task.before else name))
        else:
            others = [s.value for s in (task.simple, task.before) if s is not None]
            gain = trained.value - max(others or [task.chance])
            wins.append((gain, f"{short(gain)} for {name}"))
    use = "use " if wins or beaten else f"nothing learnt here beats {SIMPLE}: use "
    first = [(use, loses), ("the model adds ", wins), ("training made worse ", spoilt)]
    first = [(start, sorted(named, reverse=True)) for start, named in first if named]
    first.sort(key=lambda part: -part[1][0][0])
    parts = [
        *first,
        (f"the model and {SIMPLE} side by side are best for ", sorted(both, reverse=True)),
        ("the model is below chance for ", sorted(below, reverse=True)),
        ("the model is not above chance for ", nothing),
        ("the model is no better than ", idle),
        (f"the model is no better than {SIMPLE} for ", equal),
    ]
    clauses = [start + listed([text for _, text in named]) for start, named in parts if named]
    return "; ".join([*clauses, *(_common_classes(rows) if clauses else [])]) + "." * bool(clauses)


def tasks(
    rows: Sequence[Row],
    outcomes: Sequence[Mapping[str, Outcome]] = (),
    bootstrap: Bootstrap | None = None,
) -> list[Task]:
    """What the protocols that are compared with simple features or with chance ask.

    Args:
        rows: See `summary`.
        outcomes: See `summary`.
        bootstrap: See `summary`.
    """
    from amodal.evaluate.protocol_registry import protocol_of_report

    groups: dict[tuple[str, str, bool], list[int]] = {}
    for number, row in enumerate(rows):
        protocol = protocol_of_report(row["protocol"])
        metric, target = row["metric"], row.get("target", "")
        recall = metric.startswith("recall@")
        if metric not in CALLED and not recall:
            continue
        name = f"{row['label']} from {row['source']}" if row.get("label") else ""
        name = f"retrieval of {target} by {row['source']}" if target else name
        if not (protocol.yardstick or protocol.against_chance):
            continue
        if protocol.against_chance:  # another question than that of probes, which learn from labels
            name += f" by {protocol.name.replace('_', '-')}" if name else ""
        key = (name, "recall" if recall else metric, protocol.yardstick)
        groups.setdefault(key, []).append(number)
    found = []
    for (name, kind, compared), same in groups.items():
        if kind == "recall":
            same = [max(same, key=lambda i: int(rows[i]["metric"].partition("@")[2]))]

        def best(column: str, same: Iterable[int] = same) -> Score | None:
            scores = [
                Score(
                    rows[i], column, (outcomes[i] if outcomes else {}).get(_name(column)), bootstrap
                )
                for i in same
                if column in rows[i] and math.isfinite(rows[i][column])
            ]
            return max(scores, key=lambda score: score.value, default=None)

        trained = best("value")
        if trained is None or not name:
            continue
        chance = max(float(rows[i]["chance"]) for i in same)
        before = best("frozen") or best("untrained")
        labelled, simple = kind != "recall", best("simple")
        named = protocol_of_report(rows[same[0]]["protocol"]).against_chance
        compared &= simple is not None or not named
        found.append(
            Task(name, trained, simple, before, chance, labelled, compared, best("joined"), named)
        )
    return found


def _name(column: str) -> str:
    return "trained" if column == "value" else column


def _before(score: Score | None) -> str:
    return BEFORE[score.column] if score is not None else ""


def _use(task: Task, simple: Score, names: Mapping[str, str]) -> str:
    """Which simple features to use for a task, and the figures."""
    row, protocol = simple.row, f"{simple.protocol} " if task.labelled else ""
    fields = [*names] if row["source"] == FUSED else [row["source"], row.get("target", "")]
    of = {names.get(field, "") for field in fields if field}
    name = (of.pop() if len(of) == 1 else "") or SIMPLE
    name = OWN_TEXT if task.against_chance else name
    return f"{name} for {task.name} ({protocol}{pair(simple.value, task.trained.value)})"


def _common_classes(rows: Iterable[Row]) -> list[str]:
    """For each label most of whose records are of one class, what is compared."""
    found: dict[str, float] = {}
    for row in rows:
        if row["metric"] == "balanced accuracy" and row.get("label"):
            even = float(row["chance"])
            shares = [
                float(other["chance"])
                for other in rows
                if other["metric"] == "accuracy"
                and all(other.get(k) == row.get(k) for k in ("protocol", "label", "source"))
            ]
            share = max(shares, default=0.0)
            if share >= COMMON and share >= COMMON_TIMES * even:
                found[row["label"]] = max(share, found.get(row["label"], 0.0))
    return [
        f"{share:.0%} of the records are of one class of {label}, so balanced accuracy is compared"
        for label, share in found.items()
    ]


def short(value: float, decimals: int = 2) -> str:
    """Two decimals, without the zero in front of them."""
    text = f"{value:.{decimals}f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def pair(a: float, b: float, between: str = ", trained ") -> str:
    """Two numbers, with a third decimal where two do not show which is larger."""
    decimals = 3 if max(abs(a), abs(b)) < 0.1 or short(a) == short(b) else 2
    return short(a, decimals) + between + short(b, decimals)


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them, at least one; of more than `SHOWN` the number of the rest."""
    shown = [*names[:SHOWN]]
    if len(names) > SHOWN:
        shown.append(f"{len(names) - SHOWN} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
