"""What predicted risks are worth: scores with intervals, and the curves of risk groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from amodal.evaluate.row import Row
from amodal.stats.survival import kaplan_meier, log_rank
from amodal.stats.survival_scores import Predictions, bootstrap_interval, evaluation_times, scores

OF_RISKS = ("concordance", "AUC over time")
"""The metrics of `amodal.stats.survival_scores` that read no curves."""


def risk_rows(part: Predictions, draws: int = 200) -> list[Row]:
    """Rows of the metrics of risks alone; none if no two people can be compared.

    Args:
        part: Predictions, whose curves are not read.
        draws: Of people, for the intervals.
    """
    events = int(part.event.sum())
    if not events or len(np.unique(part.time)) < 2:
        return []
    grid = evaluation_times(part.time, part.event, [part.train])
    metrics = OF_RISKS if len(grid) else OF_RISKS[:1]
    values = scores([part], grid, draws=draws, metrics=metrics)
    return [
        {
            "metric": metric,
            "value": float(values[metric][0]),
            "interval": bootstrap_interval(values[metric]),
            "chance": 0.5,
            "n": len(part.time),
            "events": events,
        }
        for metric in metrics
    ]


def risk_groups(parts: Sequence[Predictions], points: int = 200) -> dict[str, Any]:
    """Kaplan-Meier curves of people at low and at high predicted risk.

    The groups are below and above the median of the same model. p is of the log-rank test between
    them; it is a little too small where models have learnt from each other's people.

    Args:
        parts: Predictions.
        points: Times of a curve at most.
    """
    time = np.concatenate([part.time for part in parts])
    event = np.concatenate([part.event for part in parts])
    high = np.concatenate([part.risk > np.median(part.risk) for part in parts])
    low_high = {"low": ~high, "high": high}
    last = {name: float(time[half].max(initial=0.0)) for name, half in low_high.items()}
    steps = np.unique(time[event])
    steps = steps if len(steps) <= points else np.quantile(steps, np.linspace(0, 1, points))
    times = np.unique(np.concatenate([[0.0], steps, list(last.values())]))
    curves = {
        name: kaplan_meier(time[half], event[half], times).tolist()
        for name, half in low_high.items()
    }
    n = {name: int(half.sum()) for name, half in low_high.items()}
    return {
        "times": times.tolist(),
        **curves,
        "last": last,
        "n": n,
        "p": log_rank(time, event, high)[1],
    }
