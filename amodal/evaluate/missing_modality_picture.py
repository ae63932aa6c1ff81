"""What each subset of fields gives, beside what the same records give with all that they have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate.drawing import COLOURS, drawing


def missing_modality(rows: Sequence[dict], path: str | Path, *, label: str | None = None) -> Path:
    """For every subset of fields: with these alone (dot), with all that the same records have
    (ring), chance (tick)."""
    probes = [r for r in rows if "target" not in r and r["metric"] in ("accuracy", "R2")]
    probes = [r for r in probes if r["probe"] == probes[0]["probe"]] if probes else []
    found = [r for r in rows if "target" in r]
    panels = (
        [
            (
                f"{label + ': ' if label else ''}{probes[0]['metric']} of a {probes[0]['probe']} probe",
                probes,
            )
        ]
        if probes
        else []
    )
    for target in dict.fromkeys(r["target"] for r in found):
        panels.append(
            (f"finding {target}: {found[0]['metric']}", [r for r in found if r["target"] == target])
        )
    panels = [(title, _fewer(part)) for title, part in panels]
    if not panels:
        raise AmodalError("these rows hold nothing about missing fields to draw")
    columns = min(len(panels), 3)
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [0.75 + 0.21 * max(len(part) for _, part in line) for line in lines]
    with drawing(path, 4.2 * columns, sum(heights) + 0.3) as figure:
        grid = figure.add_gridspec(len(lines), columns, height_ratios=heights)
        for i, line in enumerate(lines):
            for j, (title, part) in enumerate(line):
                axes = figure.add_subplot(grid[i, j])
                y = np.arange(len(part))[::-1]
                value, full = (
                    np.array([r["value"] for r in part]),
                    np.array([r["full"] for r in part]),
                )
                axes.hlines(y, value, full, color="#C9D3DB", linewidth=2, zorder=1)
                ring = {"facecolors": "white", "edgecolors": "#666666", "linewidths": 1}
                axes.scatter(full, y, s=26, zorder=2, label="all fields the record has", **ring)
                axes.scatter(value, y, s=26, color=COLOURS[0], zorder=3, label="these fields alone")
                axes.scatter(
                    [r["chance"] for r in part],
                    y,
                    s=40,
                    marker="|",
                    color=COLOURS[5],
                    zorder=2,
                    label="chance",
                )
                axes.set_yticks(y, [r["source"].replace("+", " + ") for r in part], fontsize=8)
                axes.set(title=title, ylim=(-0.7, len(part) - 0.3))
                axes.set_xlim(left=min(0, float(np.nanmin([value.min(), full.min()])) * 1.05))
                axes.grid(axis="y", visible=False)
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8)
    return Path(path)


def _fewer(rows: Sequence[dict], most: int = 32) -> list[dict]:
    """Small and large subsets, when there are more than a page takes."""
    if len(rows) <= most:
        return list(rows)
    sizes = [r["source"].count("+") + 1 for r in rows]
    ends = {1, 2, max(sizes), max(sizes) - 1}
    some = [r for r, s in zip(rows, sizes) if s in ends]
    return some if len(some) <= most else [r for r, s in zip(rows, sizes) if s in ends - {2}]
