"""A report for a terminal: trained next to untrained and chance, long protocols in short."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from rich.table import Table

HEADLINES = (
    "accuracy",
    "R2",
    "AMI",
    "recall@10",
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

LONG = 12
"""Rows of one protocol above which their means are shown instead."""


def table(
    about: dict,
    rows: Sequence[dict],
    skipped: dict[str, str],
    few: int | None,
    *,
    every: bool = False,
) -> Table:
    """every: all metrics and all rows, not the headlines in short."""
    parts = [f"{about[p]:,} {p}" for p in ("train", "test") if p in about]
    parts += [f"{about['left_out']:,} left out that were trained on"] if "left_out" in about else []
    title = " · ".join(
        [about.get("data", "evaluation"), *parts, *([f"{few} labels of each class"] if few else [])]
    )
    notes = (
        ["warning: records that were trained on cannot be recognised here"]
        if "warning" in about
        else []
    )
    notes += [f"{name}: skipped, {reason}" for name, reason in skipped.items()]
    shown = Table(
        title=title, caption="\n".join(notes) or None, caption_justify="left", title_justify="left"
    )
    for heading in ("protocol", "label", "from", "to", "metric"):
        shown.add_column(heading)
    compared = any("untrained" in row for row in rows)
    for heading in (
        ("n", "trained", "untrained", "chance") if compared else ("n", "value", "chance")
    ):
        shown.add_column(heading, justify="right")
    groups: dict[tuple[str, str], list[dict]] = {}
    from amodal.evaluate.protocol_registry import described

    headlines = {
        name: described(name).headlines or HEADLINES for name in {row["protocol"] for row in rows}
    }
    for row in rows:
        if every or row["metric"] in headlines[row["protocol"]]:
            groups.setdefault((row["protocol"], row.get("label", "")), []).append(row)
    for head, group in groups.items():
        for number, row in enumerate(group if every or len(group) <= LONG else in_short(group)):
            shown.add_row(*(head if not number else ("", "")), *_cells(row, compared))
        shown.add_section()
    return shown


def in_short(rows: Sequence[dict]) -> list[dict]:
    """The rows of one protocol that a table shows where there are too many to read one by one."""
    from amodal.evaluate.protocol_registry import described

    return described(rows[0]["protocol"]).shortened(rows)


def by_target(row: dict) -> tuple[str, str]:
    """What a row is averaged with: others of its source, whose target is the source itself or is
    another."""
    target = row.get("target", "")
    return row["source"], ("itself" if target == row["source"] else "others") if target else ""


def means(rows: Sequence[dict], group: Callable[[dict], tuple[str, str]] = by_target) -> list[dict]:
    """Means of the first probe's rows over those of one group and metric. group: row -> its new
    source and target."""
    probe = next((row["probe"] for row in rows if "probe" in row), None)
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row.get("probe", probe) == probe:
            groups.setdefault((*group(row), row["metric"], row.get("probe")), []).append(row)
    short = []
    for (source, target, metric, _), many in groups.items():
        averages = {k: _mean(row.get(k) for row in many) for k in ("value", "untrained", "chance")}
        counts = {row["n"] for row in many}
        n = counts.pop() if len(counts) == 1 else None
        row = many[0] | averages | {"source": source, "target": target, "metric": metric, "n": n}
        row.pop("interval", None)
        short.append(row | ({"of": len(many)} if len(many) > 1 else {}))
    return short


def _cells(row: dict, compared: bool) -> list[str]:
    others = [
        v for v in (row.get("untrained"), row.get("chance")) if v is not None and math.isfinite(v)
    ]
    lower = any(name in row["metric"] for name in LOWER)
    best = all(row["value"] < v if lower else row["value"] > v for v in others)
    value = number(row["value"], row.get("interval"))
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
        *([number(row.get("untrained"))] if compared else []),
        number(row.get("chance")),
    ]


def number(value: float | None, interval: Iterable[float] | None = None) -> str:
    if value is None or not math.isfinite(value):
        return "" if value is None else "–"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
    if interval is not None:
        low, high = interval
        text += f" ±{(high - low) / 2:.3f}" if math.isfinite(high - low) else ""
    return text


def _mean(values: Iterable[float | None]) -> float | None:
    there = [v for v in values if v is not None and math.isfinite(v)]
    return sum(there) / len(there) if there else None
