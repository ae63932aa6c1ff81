"""The picture of `missing_modality`: each subset of fields beside all fields of the records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.evaluate.row import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def missing_modality(rows: Sequence[Row], path: str | Path, *, label: str | None = None) -> Path:
    """Draw every subset of fields: alone (dot), with all fields of the same records (ring), chance.

    Args:
        rows: Of the protocol `missing_modality`.
        path: A PNG file.
        label: What is predicted, for the title.

    Returns:
        The path.

    Raises:
        AmodalError: If there is nothing to draw.
    """
    panels = [(title, _fewer(part)) for title, part in _panels(rows, label)]
    if not panels:
        raise AmodalError("these rows hold nothing about missing fields to draw")
    columns = min(len(panels), 3)
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [0.75 + 0.21 * max(len(part) for _, part in line) for line in lines]
    with drawing(path, 4.2 * columns, sum(heights) + 0.3) as figure:
        grid = figure.add_gridspec(len(lines), columns, height_ratios=heights)
        for i, line in enumerate(lines):
            for j, (title, part) in enumerate(line):
                _panel(figure.add_subplot(grid[i, j]), title, part)
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8)
    return Path(path)


def _panels(rows: Sequence[Row], label: str | None) -> list[tuple[str, list[Row]]]:
    """(title, rows): the first probe, then retrieval of each field."""
    probes = [r for r in rows if "target" not in r and r["metric"] in ("accuracy", "R2")]
    retrieval = [r for r in rows if "target" in r]
    panels = []
    if probes:
        probe = probes[0]["probe"]
        title = f"{label + ': ' if label else ''}{probes[0]['metric']} of a {probe} probe"
        panels.append((title, [r for r in probes if r["probe"] == probe]))
    for target in dict.fromkeys(r["target"] for r in retrieval):
        title = f"finding {target}: {retrieval[0]['metric']}"
        panels.append((title, [r for r in retrieval if r["target"] == target]))
    return panels


def _panel(axes: Axes, title: str, part: Sequence[Row]) -> None:
    y = np.arange(len(part))[::-1]
    value, full = (np.array([r[k] for r in part]) for k in ("value", "full"))
    chance = [r["chance"] for r in part]
    axes.hlines(y, value, full, color="#C9D3DB", linewidth=2, zorder=1)
    axes.scatter(
        full,
        y,
        s=26,
        zorder=2,
        label="all fields the record has",
        facecolors="white",
        edgecolors="#666666",
        linewidths=1,
    )
    axes.scatter(value, y, s=26, color=COLOURS[0], zorder=3, label="these fields alone")
    axes.scatter(chance, y, s=40, marker="|", color=COLOURS[5], zorder=2, label="chance")
    axes.set_yticks(y, [r["source"].replace("+", " + ") for r in part], fontsize=8)
    axes.set(title=title, ylim=(-0.7, len(part) - 0.3))
    axes.set_xlim(left=min(0, float(np.nanmin([value.min(), full.min()])) * 1.05))
    axes.grid(axis="y", visible=False)


def _fewer(rows: Sequence[Row], most: int = 32) -> list[Row]:
    """Small and large subsets, when there are more than fit on a page."""
    if len(rows) <= most:
        return list(rows)
    sizes = [r["source"].count("+") + 1 for r in rows]
    ends = {1, 2, max(sizes), max(sizes) - 1}
    chosen = [r for r, s in zip(rows, sizes) if s in ends]
    return chosen if len(chosen) <= most else [r for r, s in zip(rows, sizes) if s in ends - {2}]
