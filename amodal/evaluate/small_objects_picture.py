"""The picture of `small_objects`: recall by the size of the object and by the number of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate.drawing import COLOURS, REST, drawing
from amodal.evaluate.row import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {
    "one": "one vector for each value",
    "multi_vector": "many vectors for each value",
    "regions": "vectors of regions",
}


def small_objects(rows: Sequence[Row], path: str | Path) -> Path:
    """Draw a panel for sizes and, if they were measured, one for numbers of objects.

    Points have 95 % intervals, ticks are chance.

    Args:
        rows: Of the protocol `small_objects`.
        path: A PNG file.

    Returns:
        The path.

    Raises:
        AmodalError: If there is nothing to draw.
    """
    rows = [r for r in rows if r["source"] != "gain"]
    if not rows:
        raise AmodalError("these rows hold nothing about small objects to draw")
    metric = rows[0]["metric"]
    panels = _panels([r for r in rows if r["metric"] == metric])
    top = 1.05 * max(
        max(r["interval"][1], r["value"], r["chance"]) for part in panels.values() for r in part
    )
    with drawing(path, 1.2 + 3.9 * len(panels), 3.4) as figure:
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, part) in zip(grid, panels.items()):
            _panel(axes, title, part, top)
        figure.axes[0].set_ylabel(metric)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    return Path(path)


def _panels(rows: list[Row]) -> dict[str, list[Row]]:
    """Title -> its rows."""
    panels: dict[str, list[Row]] = {}
    for title, ends in (
        ("share of the picture that it covers", "of the picture"),
        ("things in the picture", "in the picture"),
    ):
        fitting = [
            r
            for r in rows
            if r["target"].endswith(ends)
            and (ends == "of the picture") == r["target"].startswith("covering")
        ]
        if fitting:
            panels[title] = [r for r in rows if r["target"] == "all"] + fitting
    if not panels:
        panels["all queries"] = rows
    return panels


def _panel(axes: Axes, title: str, part: Sequence[Row], top: float) -> None:
    names = list(dict.fromkeys(r["target"] for r in part))
    sources = list(dict.fromkeys(r["source"] for r in part))
    by_name = {(r["source"], r["target"]): r for r in part}
    for number, source in enumerate(sources):
        points = [by_name[source, name] for name in names]
        x = np.arange(len(names)) + 0.18 * (number - (len(sources) - 1) / 2)
        value = np.array([r["value"] for r in points])
        low, high = np.array([r["interval"] for r in points]).T
        axes.errorbar(
            x,
            value,
            np.clip([value - low, high - value], 0, None),
            label=NAMES[source],
            fmt="o",
            markersize=5,
            capsize=2.5,
            linewidth=1.2,
            color=COLOURS[number],
        )
    first = [next(r for r in part if r["target"] == name) for name in names]
    chance = [r["chance"] for r in first]
    axes.scatter(range(len(names)), chance, marker="_", s=260, color=REST, zorder=1, label="chance")
    ticks = [f"{_short(name)}\nn = {r['n']}" for name, r in zip(names, first)]
    axes.set_xticks(range(len(names)), ticks, fontsize=8)
    axes.set(title=title, ylim=(0, top), xlim=(-0.5, len(names) - 0.5))
    axes.grid(axis="x", visible=False)


def _short(name: str) -> str:
    for words in ("covering ", " of the picture", " things in the picture"):
        name = name.replace(words, "")
    return name
