"""A report for a terminal: trained next to untrained and chance, long protocols in short."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

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


def table(about: dict, rows: Sequence[dict], skipped: dict[str, str], few: int | None, *, every: bool = False) -> Table:
    """every: all metrics and all rows, not the headlines in short."""
    parts = [f"{about[p]:,} {p}" for p in ("train", "test") if p in about]
    parts += [f"{about['left_out']:,} left out that were trained on"] if "left_out" in about else []
    title = " · ".join([about.get("data", "evaluation"), *parts, *([f"{few} labels of each class"] if few else [])])
    notes = ["warning: records that were trained on cannot be told apart here"] if "warning" in about else []
    notes += [f"{name}: skipped, {reason}" for name, reason in skipped.items()]
    shown = Table(title=title, caption="\n".join(notes) or None, caption_justify="left", title_justify="left")
    for heading in ("protocol", "label", "from", "to", "metric"):
        shown.add_column(heading)
    compared = any("untrained" in row for row in rows)
    for heading in ("n", "trained", "untrained", "chance") if compared else ("n", "value", "chance"):
        shown.add_column(heading, justify="right")
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        shown_of_it = ("recall@1", "recall@1 gained") if row["protocol"] == "small_objects" else HEADLINES
        if every or row["metric"] in shown_of_it:
            groups.setdefault((row["protocol"], row.get("label", "")), []).append(row)
    for head, group in groups.items():
        for number, row in enumerate(group if every or len(group) <= LONG else in_short(group)):
            shown.add_row(*(head if not number else ("", "")), *_cells(row, compared))
        shown.add_section()
    return shown


def in_short(rows: Sequence[dict]) -> list[dict]:
    """Means over what a person does not want to read one by one, of the first probe: over targets, or over subsets of one size."""
    if rows[0]["protocol"] == "absence":
        return _absence_in_short(rows)
    if rows[0]["protocol"] in ("survival", "small_objects"):  # nothing to average, and the intervals are what counts
        return list(rows)
    if rows[0]["protocol"] == "sense_sets":
        return [row for row in rows if "own" not in row]  # means and worst cases
    probe = next((row["probe"] for row in rows if "probe" in row), None)
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row.get("probe", probe) != probe:
            continue
        source, target = row["source"], row.get("target", "")
        if row["protocol"] == "missing":
            senses = source.count("+") + 1
            source, target = f"{senses} sense{'s' * (senses > 1)}", "another" if target else ""
        elif target:
            target = "itself" if target == source else "others"
        groups.setdefault((source, target, row["metric"], row.get("probe")), []).append(row)
    short = []
    for (source, target, metric, _), many in groups.items():
        means = {k: _mean(row.get(k) for row in many) for k in ("value", "untrained", "chance")}
        counts = {row["n"] for row in many}
        row = (
            many[0]
            | means
            | {"source": source, "target": target, "metric": metric, "n": counts.pop() if len(counts) == 1 else None}
        )
        row.pop("interval", None)
        short.append(row | ({"of": len(many)} if len(many) > 1 else {}))
    return short


def _absence_in_short(rows: Sequence[dict]) -> list[dict]:
    """What the probe that learnt from the records as they are bears, and the stand-in that was chosen; a line each."""
    short, worst = [], max(row.get("severity", 0) for row in rows)
    for row in rows:
        part, plain = row["part"], row["source"] == "trained with 0% hidden"
        if part == "random" and plain:
            short.append(row | {"source": "all senses"})
        elif part == "ways" and row["chosen"] and row["source"] != "drop":
            short.append(row | {"source": f"all senses, absent ones by {row['source']}"})
        elif part == "label" and row["source"] == "fused":
            short.append(row | {"source": "all senses", "target": f"hidden by label, {row['target']}"})
        elif part == "leak" or part == "worth":
            short.append(row | ({"source": "presence alone"} if part == "leak" else {}))
        elif row.get("severity", 0) == worst > 0:
            short.append(row | {"source": f"all senses, {row['source']} damaged"})
    return short


def _cells(row: dict, compared: bool) -> list[str]:
    others = [v for v in (row.get("untrained"), row.get("chance")) if v is not None and math.isfinite(v)]
    lower = any(name in row["metric"] for name in LOWER)
    best = all(row["value"] < v if lower else row["value"] > v for v in others)
    value = number(row["value"], row.get("interval"))
    detail = ", ".join(
        [*([row["probe"]] if "probe" in row else []), *([f"mean of {row['of']}"] if "of" in row else [])]
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
