"""Yardsticks: what `amodal evaluate` measured, beside simple features, an untrained encoder and
chance."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from amodal.evaluate.protocol_registry import protocol_of_report
from amodal.evaluate.report_table import COLUMNS, HEADLINES, LOWER, shown_value
from amodal.evaluate.row import Row
from amodal.serve import runs

MAX_ROWS = 600
"""Rows that are shown."""
NAMES = {column: column for column in COLUMNS} | {"value": "trained"}


def add(made: APIRouter, run: Path, data: str) -> None:
    """The route of the tab.

    Args:
        made: Gets it.
        run: The run folder, in which reports are looked for.
        data: What `--data` takes, for the command that makes one.
    """

    @made.get("/view/yardsticks")
    def yardsticks() -> Any:
        """The newest report in the run folder, and how to make one."""
        target = run / "report.json"
        words = ["amodal", "evaluate", str(run), "--data", data, "--json", str(target)]
        command = shlex.join(words)
        file, report = next(runs.reports(run), (None, None))
        if file is None or report is None:
            return {"file": "", "command": command, "groups": [], "columns": []}
        rows = report.rows()
        heads = [row for row in rows if row.get("metric") in headlines(row)][:MAX_ROWS]
        columns = [c for c in COLUMNS if any(shown_value(row, c) is not None for row in heads)]
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in heads:
            title = " · ".join(str(row[k]) for k in ("protocol", "label") if row.get(k))
            groups.setdefault(title, []).append(shown(row, columns))
        model = run / "model.safetensors"
        counts = {part: report.about[part] for part in ("train", "test") if part in report.about}
        return {
            "file": file.name,
            "old": model.exists() and model.stat().st_mtime > file.stat().st_mtime,
            "data": str(report.about.get("data", "")),
            "counts": counts,
            "summary": str(report.about.get("summary", "")),
            "warning": str(report.about.get("warning", "")),
            "simple": report.about.get("simple", {}),
            "skipped": report.skipped,
            "columns": [NAMES[c] for c in columns],
            "groups": [{"title": title, "rows": some} for title, some in groups.items()],
            "others": len(rows) - len(heads),
            "command": command,
        }


def headlines(row: Row) -> tuple[str, ...]:
    """The metrics of a protocol that are shown. Accuracy praises a guess of the most frequent
    class, so there is balanced accuracy too."""
    return (*(protocol_of_report(row["protocol"]).headlines or HEADLINES), "balanced accuracy")


def shown(row: Row, columns: list[str]) -> dict[str, Any]:
    """A row for the page: what was measured, and value and interval of each column."""
    what = " → ".join(str(row[k]) for k in ("source", "target") if row.get(k))
    intervals = row.get("intervals", {})
    spans = [intervals.get(NAMES[c]) for c in columns]
    return {
        "what": what,
        "metric": str(row["metric"]),
        "lower": any(name in str(row["metric"]) for name in LOWER),
        "n": row.get("n"),
        "values": [shown_value(row, c) for c in columns],
        "intervals": [finite(span) for span in spans],
    }


def finite(span: Any) -> list[float] | None:
    """An interval of two numbers, None for anything else."""
    if not isinstance(span, list | tuple) or len(span) != 2:
        return None
    low, high = (float(v) for v in span)
    return [low, high] if abs(low) < float("inf") and abs(high) < float("inf") else None
