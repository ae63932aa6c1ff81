"""The table of a report for a terminal: trained beside simple features, frozen pretrained models,
untrained and chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from amodal.evaluate.row import Row

HEADLINES = (
    "accuracy",
    "R2",
    "AMI",
    "recall@10",
    "MAP",
    "macro top-1, harmonic mean",
    "MRR, by votes",
    "worth",
    "concordance",
    "AUC over time",
    "integrated Brier",
)
"""The metrics that a table shows unless all are asked for."""

LOWER = ("rank", "Brier", "calibration error")
"""What a metric's name says if smaller is better."""

COLUMNS = ("value", "joined", "simple", "frozen", "untrained", "chance")
YARDSTICKS = COLUMNS[2:]
"""What a value has to beat to be bold. `joined` has the encoder in it."""

LONG = 12
"""Rows of one protocol above which their means are shown instead."""


def table(
    about: dict[str, Any],
    rows: Sequence[Row],
    skipped: dict[str, str],
    few: int | None,
    *,
    every: bool = False,
) -> Table:
    """Make the table.

    Args:
        about: What the report says about the data.
        rows: The rows of all protocols.
        skipped: Protocol -> why it was skipped.
        few: Labels of each class, for the title.
        every: All metrics and all rows. Otherwise headlines, and means where there are many rows.
    """
    parts = [f"{about[p]:,} {p}" for p in ("train", "test") if p in about]
    parts += [f"{about['left_out']:,} left out that were trained on"] if "left_out" in about else []
    parts += [about["subset"]] if "subset" in about else []
    title = " · ".join(
        [about.get("data", "evaluation"), *parts, *([f"{few} labels of each class"] if few else [])]
    )
    title += "\n" + escape(about["summary"]) if about.get("summary") else ""
    notes = (
        ["warning: records that were trained on cannot be recognised here"]
        if "warning" in about
        else []
    )
    if about.get("simple") and any("simple" in row for row in rows):
        used = ", ".join(f"{field} {name}" for field, name in about["simple"].items())
        notes += [escape(f"simple: {used}")]
    if "runs" in about:
        notes += [f"trained: mean of {about['runs']} runs, ± over the runs, ± over the records"]
    notes += [escape(f"{name}: {note}") for name, note in about.get("notes", {}).items()]
    notes += [f"{name}: skipped, {reason}" for name, reason in skipped.items()]
    shown = Table(
        title=title, caption="\n".join(notes) or None, caption_justify="left", title_justify="left"
    )
    for heading in ("protocol", "label", "from", "to", "metric"):
        shown.add_column(heading)
    compared = [c for c in COLUMNS[1:-1] if any(shown_value(row, c) is not None for row in rows)]
    for heading in ("n", "trained" if compared else "value", *compared, "chance"):
        shown.add_column(heading, justify="right")
    groups: dict[tuple[str, str], list[Row]] = {}
    from amodal.evaluate.protocol_registry import protocol_of_report

    headlines = {
        name: protocol_of_report(name).headlines or HEADLINES
        for name in {row["protocol"] for row in rows}
    }
    for row in rows:
        if every or row["metric"] in headlines[row["protocol"]]:
            groups.setdefault((row["protocol"], row.get("label", "")), []).append(row)
    for head, group in groups.items():
        for number, row in enumerate(group if every or len(group) <= LONG else in_short(group)):
            shown.add_row(*(head if not number else ("", "")), *_cells(row, compared))
        shown.add_section()
    return shown


def in_short(rows: Sequence[Row]) -> list[Row]:
    """The rows of one protocol that a table shows if there are too many."""
    from amodal.evaluate.protocol_registry import protocol_of_report

    return protocol_of_report(rows[0]["protocol"]).shortened(rows)


def by_target(row: Row) -> tuple[str, str]:
    """The groups of `means`: rows of one source, by whether the target is the source itself."""
    target = row.get("target", "")
    return row["source"], ("itself" if target == row["source"] else "others") if target else ""


def means(rows: Sequence[Row], group: Callable[[Row], tuple[str, str]] = by_target) -> list[Row]:
    """Means of the first probe's rows over one group and metric.

    Args:
        rows: Of one protocol.
        group: row -> its new source and target.
    """
    probe = next((row["probe"] for row in rows if "probe" in row), None)
    groups: dict[tuple[str, str, str, str | None], list[Row]] = {}
    for row in rows:
        if row.get("probe", probe) == probe:
            groups.setdefault((*group(row), row["metric"], row.get("probe")), []).append(row)
    short = []
    for (source, target, metric, _), rows_ in groups.items():
        averages = {k: _mean(row.get(k) for row in rows_) for k in COLUMNS}
        counts = {row["n"] for row in rows_}
        n = counts.pop() if len(counts) == 1 else None
        row = rows_[0] | averages | {"source": source, "target": target, "metric": metric, "n": n}
        for of_one in ("interval", "intervals", "runs"):
            row.pop(of_one, None)
        short.append(row | ({"of": len(rows_)} if len(rows_) > 1 else {}))
    return short


def _cells(row: Row, compared: Sequence[str]) -> list[str]:
    """The cells of one row. A value better than all that it is compared with is bold."""
    others = [v for c in YARDSTICKS if (v := shown_value(row, c)) is not None]
    others = [v for v in others if math.isfinite(v)]
    lower = any(name in row["metric"] for name in LOWER)
    best = all(row["value"] < v if lower else row["value"] > v for v in others)
    intervals = row.get("intervals", {})
    value = number(row["value"], row.get("interval", intervals.get("trained")))
    if "runs" in row and "trained" in intervals:
        value += number(row["value"], intervals["trained"]).partition(" ")[2].join((" ", ""))
    detail = ", ".join(
        [
            *([row["probe"]] if "probe" in row else []),
            *([f"mean of {row['of']}"] if "of" in row else []),
        ]
    )
    return [
        row["source"],
        row.get("target", ""),
        row["metric"] + (f" ({detail})" if detail else ""),
        "" if row["n"] is None else f"{row['n']:,}",
        f"[bold]{value}[/]" if best else value,
        *(number(shown_value(row, column), intervals.get(column)) for column in compared),
        number(row.get("chance")),
    ]


def shown_value(row: Row, column: str) -> float | None:
    """A cell of a row. A pretrained backbone was trained, so its column stands for `untrained`."""
    value: float | None = row.get(column)
    return None if column == "untrained" and row.get("frozen") is not None else value


def number(value: float | None, interval: Iterable[float] | None = None) -> str:
    """A number for a table, with half its interval."""
    if value is None or not math.isfinite(value):
        return "" if value is None else "–"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
    if interval is not None:
        low, high = interval
        text += f" ±{(high - low) / 2:.3f}" if math.isfinite(high - low) else ""
    return text


def _mean(values: Iterable[float | None]) -> float | None:
    finite = [v for v in values if v is not None and math.isfinite(v)]
    return sum(finite) / len(finite) if finite else None
