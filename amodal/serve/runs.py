"""Metrics, quarantine and reports of a run folder, while it trains and after. Reads files only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amodal.core import AmodalError
from amodal.core.regular_file import regular
from amodal.data.quarantine import Bad
from amodal.data.quarantine import read as read_quarantine
from amodal.evaluate import Report
from amodal.train.log import read_metrics

QUARANTINE = "quarantine.jsonl"
"""In RUN/view: values that could not be read when records were indexed for the page."""


def run_metrics(run: Path, since: int = 0) -> dict[str, Any]:
    """The state of a run.

    Args:
        run: The run folder.
        since: Leave out what was measured up to this step.

    Returns:
        method, status, steps, name, `last` (step), `settings` (name -> value) and `columns`: name
        -> [[step, value], …].
    """
    config = _config(run)
    columns: dict[str, list[list[float]]] = {}
    last = since
    for entry in read_metrics(run / "metrics.jsonl"):
        if entry["step"] <= since:
            continue
        last = max(last, entry["step"])
        for name, value in entry.items():
            if (
                name != "step"
                and isinstance(value, (int, float))
                and value == value
                and abs(value) != float("inf")
            ):
                columns.setdefault(name, []).append([entry["step"], value])
    schedule = config.get("schedule", {})
    about = {
        "method": config.get("method", ""),
        "status": config.get("status", ""),
        "steps": schedule.get("steps"),
    }
    return about | {
        "name": run.resolve().name,
        "last": last,
        "columns": columns,
        "settings": settings(config, encoder_args(config)),
    }


def encoder_args(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the encoder of a run of any format."""
    encoder: dict[str, Any] = config.get("encoder", {})
    arguments: dict[str, Any] = encoder.get("args", encoder)
    return arguments


def settings(config: dict[str, Any], encoder: dict[str, Any]) -> dict[str, str]:
    """The settings of a run by short names."""
    chosen = {
        "method": config.get("method"),
        "data": config.get("data", {}).get("name"),
        "fields": ", ".join(encoder.get("fields", {})),
    }
    chosen |= {name: encoder.get(name) for name in ("size", "trunk", "positions", "pool")}
    chosen |= {name: config.get(name) for name in ("batch", "seed")}
    options = {f"method.{name}": value for name, value in config.get("options", {}).items()}
    chosen |= config.get("schedule", {}) | options
    return {
        name: f"{v:.4g}" if isinstance(v, float) else str(v)
        for name, v in chosen.items()
        if v not in (None, "")
    }


def sibling_runs(run: Path) -> dict[str, Path]:
    """name -> folder of the other runs in the same folder."""
    run_dir = run.resolve()
    logs = sorted(p.parent for p in run_dir.parent.glob("*/metrics.jsonl") if p.parent != run_dir)
    return {p.name: p for p in logs}


def quarantined(run: Path) -> list[Bad]:
    """Values that could not be read, while this run trained or for the page, each once."""
    found: dict[tuple[str, str], Bad] = {}
    for file in [*sorted(run.glob("quarantine*.jsonl")), *run.glob(f"view/{QUARANTINE}")]:
        found |= {(bad.key, bad.field): bad for bad in read_quarantine(file)}
    return list(found.values())


def reports(run: Path) -> Iterator[tuple[Path, Report]]:
    """The reports of `amodal evaluate` in the run folder, the newest first."""
    files = [p for p in run.glob("*.json") if p.name not in ("config.json", "spec.json")]
    for file in sorted(files, key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            yield file, Report.load(file)
        except AmodalError:  # some other JSON
            continue


def missing_rows(run: Path) -> list[dict[str, Any]]:
    """Rows of the protocol `missing_modality` in the newest report in the run folder, if any."""
    for _, report in reports(run):
        rows = [r for r in report.rows() if r["protocol"] == "missing_modality"]
        if rows:
            return [{k: v for k, v in row.items() if v == v} for row in rows]
    return []


def _config(run: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(
            regular(run / "config.json").read_text(encoding="utf-8")
        )
        return config
    except (OSError, ValueError):
        return {}
