"""What a run folder says of itself while a run trains and after: measures, quarantine, reports.
Reads files only."""

from __future__ import annotations

import json
from pathlib import Path

from amodal.core import AmodalError
from amodal.data.quarantine import Bad
from amodal.data.quarantine import read as read_quarantine
from amodal.evaluate import Report
from amodal.train.log import read_metrics

QUARANTINE = "quarantine.jsonl"
"""In RUN/view: values that could not be read when records were indexed for the page."""


def measures(run: Path, since: int = 0) -> dict:
    """status, method, steps, `settings`: what the run was told, name -> value, and `columns`: name
    -> [[step, value], …] of what was measured after step `since`."""
    config = _config(run)
    columns: dict[str, list] = {}
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


def encoder_args(config: dict) -> dict:
    """What the encoder of a run was made with, of any format."""
    encoder = config.get("encoder", {})
    return encoder.get("args", encoder)


def settings(config: dict, encoder: dict) -> dict[str, str]:
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


def beside(run: Path) -> dict[str, Path]:
    """name -> folder of the other runs that lie in the same folder."""
    home = run.resolve()
    found = sorted(p.parent for p in home.parent.glob("*/metrics.jsonl") if p.parent != home)
    return {p.name: p for p in found}


def quarantined(run: Path) -> list[Bad]:
    """Values that could not be read while this run trained, or for the page, each once."""
    found = {}
    for file in [*sorted(run.glob("quarantine*.jsonl")), *run.glob(f"view/{QUARANTINE}")]:
        found |= {(bad.key, bad.field): bad for bad in read_quarantine(file)}
    return list(found.values())


def missing_rows(run: Path) -> list[dict]:
    """Rows of the protocol `missing_modality` in the newest report that lies in the run folder; []
    where there is none."""
    files = [p for p in run.glob("*.json") if p.name != "config.json"]
    for file in sorted(files, key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            rows = [r for r in Report.load(file).rows() if r["protocol"] == "missing_modality"]
        except AmodalError:  # some other JSON
            continue
        if rows:
            return [{k: v for k, v in row.items() if v == v} for row in rows]
    return []


def _config(run: Path) -> dict:
    try:
        return json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
