"""Validation while candidates were trained, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from amodal.evaluate.drawing import COLOURS, REST, drawing
from amodal.studies.comparison import Comparison, Entry

SHOWN = len(COLOURS)
"""Curves with a colour and a name of their own; the rest is grey."""


def draw_curves(comparison: Comparison, path: Path) -> Path | None:
    """Draw the learning curves of the candidates, the best in colour.

    Args:
        comparison: What has been found so far.
        path: A PNG file.

    Returns:
        The path; None where no candidate has a curve.

    Raises:
        AmodalError: If it cannot be written.
    """
    curves = [(entry, _points(entry)) for entry in comparison.candidates]
    curves = [(entry, points) for entry, points in curves if points]
    if not curves:
        return None
    with drawing(path, 8, 4.5) as figure:
        axes = figure.add_subplot()
        for number, (entry, points) in reversed([*enumerate(curves)]):
            colour = COLOURS[number] if number < SHOWN else REST
            steps, values = zip(*points)
            axes.plot(
                steps,
                values,
                marker="o",
                markersize=3,
                color=colour,
                linewidth=1.4,
                label=entry.name if number < SHOWN else None,
            )
        axes.set_xlabel("step")
        axes.set_ylabel("on validation records, while training")
        axes.set_title(f"{comparison.about.get('data', '')}: {comparison.title}")
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return path


def _points(entry: Entry) -> list[tuple[int, float]]:
    """(step, mean of what was measured)."""
    points = []
    for step, values in entry.curve:
        found = [v for v in _numbers(values) if v == v]
        if found:
            points.append((int(step), mean(found)))
    return points


def _numbers(values: Mapping[str, Any] | float) -> list[float]:
    return [*map(float, values.values())] if isinstance(values, Mapping) else [float(values)]
