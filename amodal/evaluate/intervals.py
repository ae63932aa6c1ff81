"""95 % intervals of the columns of a report and of their differences, over the test records."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from amodal.evaluate.row import Row
from amodal.stats.paired_bootstrap import Bootstrap, Interval, Outcome

if TYPE_CHECKING:
    from amodal.evaluate.result import Report

QUANTILE = 1.96
SHARES = (
    "accuracy",
    "balanced accuracy",
    "macro F1",
    "AUROC",
    "concordance",
    "MRR",
    "MAP",
    "Spearman",
)
"""Metrics, beside Recall@k, of which `standard_error` knows an interval without outcomes."""
DIGITS = 4


def add_intervals(report: Report, bootstrap: Bootstrap) -> None:
    """Give the rows whose records have outcomes their intervals.

    `intervals` of a row: column -> [low, high], and "trained - COLUMN" -> [low, high]. `unpaired`:
    the columns whose difference is that of two independent values, as one of them has no outcomes.

    Args:
        report: Its results are written to.
        bootstrap: Over the test records.
    """
    rows, outcomes = report.rows(), report.outcomes()
    written = [row for result in report.results for row in result.rows]
    for row, of, out in zip(rows, outcomes, written, strict=True):
        if not of:
            continue
        columns = {"trained": "value"} | {
            c: c for c in ("simple", "frozen", "untrained", "joined") if c in row
        }
        intervals: dict[str, list[float]] = {}
        unpaired = []
        for name, column in columns.items():
            if interval := column_interval(row, column, of.get(name), bootstrap):
                intervals[name] = _rounded(interval)
        for name in [*columns][1:]:
            paired = difference(of.get("trained"), of.get(name), bootstrap)
            apart = paired or independent(row, "value", row, name)
            if apart is not None:
                intervals[f"trained - {name}"] = _rounded(apart)
                unpaired += [] if paired else [name]
        out["intervals"] = intervals
        if unpaired:
            out["unpaired"] = unpaired
    report.about["intervals"] = {
        "method": "paired bootstrap over test records, expanded percentiles",
        "level": 0.95,
        "draws": bootstrap.draws,
        "seed": bootstrap.seed,
    } | ({"groups": bootstrap.groups} if bootstrap.groups else {})


def column_interval(
    row: Row, column: str, outcome: Outcome | None, bootstrap: Bootstrap | None
) -> Interval | None:
    """The interval of one value: of its outcomes, else of a share; None where neither is known.

    Outcomes that are all alike say nothing about the next record, so they count as a share too.
    """
    value = float(row[column])
    if not math.isfinite(value):
        return None
    if outcome is not None and bootstrap is not None:
        interval = bootstrap.interval(outcome)
        if interval is not None:
            return interval
    if not is_share(row):
        return None
    half = QUANTILE * standard_error(row, column)
    lowest = -1.0 if row["metric"] == "Spearman" else 0.0
    return max(value - half, lowest), min(value + half, 1.0)


def difference(
    a: Outcome | None, b: Outcome | None, bootstrap: Bootstrap | None
) -> Interval | None:
    """The paired interval of a difference, None where there is none."""
    if a is None or b is None or bootstrap is None:
        return None
    return bootstrap.difference(a, b)


def independent(a: Row, a_column: str, b: Row, b_column: str) -> Interval | None:
    """The interval of the difference of two independent values (Agresti and Coull 1998), which is
    wider than that of paired outcomes; None for metrics that are no shares."""
    apart = float(a[a_column]) - float(b[b_column])
    if not is_share(a) or not math.isfinite(apart):
        return None
    half = QUANTILE * math.hypot(standard_error(a, a_column), standard_error(b, b_column))
    return apart - half, apart + half


def standard_error(row: Row, column: str = "value") -> float:
    """Of a value of a row, without outcomes: the largest of those that apply."""
    n, value = int(row["n"]), float(row[column])
    if row["metric"] == "Spearman":  # Bonett and Wright 2000
        sampling = (1 - value**2) * math.sqrt((1 + value**2 / 2) / max(n - 3, 1))
    else:
        share = (min(max(value, 0.0), 1.0) * n + 2) / (n + 4)
        sampling = math.sqrt(share * (1 - share) / (n + 4))
    low, high = row.get("interval", (0.0, 0.0))
    drawn = (high - low) / 2 / QUANTILE if math.isfinite(high - low) else 0.0
    return max(sampling, drawn, float(row.get("standard_error", 0.0)))


def is_share(row: Row) -> bool:
    return row["metric"] in SHARES or row["metric"].startswith("recall@")


def _rounded(interval: Interval) -> list[float]:
    return [round(limit, DIGITS) for limit in interval]
