"""Recall by how large a thing is and by how much else there is, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate.drawing import COLOURS, REST, drawing

NAMES = {
    "one": "one vector for each value",
    "several": "several vectors",
    "regions": "vectors of regions",
}


def small_objects(rows: Sequence[dict], path: str | Path) -> Path:
    """A panel for sizes and, if they were measured, one for numbers of things: points with 95 %
    intervals, ticks where chance is."""
    rows = [r for r in rows if r["source"] != "gain"]
    if not rows:
        raise AmodalError("these rows hold nothing about small objects to draw")
    metric = rows[0]["metric"]
    rows = [r for r in rows if r["metric"] == metric]
    panels = {}
    for title, ends in (
        ("share of the picture that it covers", "of the picture"),
        ("things in the picture", "in the picture"),
    ):
        some = [
            r
            for r in rows
            if r["target"].endswith(ends)
            and (ends == "of the picture") == r["target"].startswith("covering")
        ]
        if some:
            panels[title] = [r for r in rows if r["target"] == "all"] + some
    if not panels:
        panels["all queries"] = rows
    top = 1.05 * max(
        max(r["interval"][1], r["value"], r["chance"]) for part in panels.values() for r in part
    )
    with drawing(path, 1.2 + 3.9 * len(panels), 3.4) as figure:
        for axes, (title, part) in zip(
            np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels.items()
        ):
            names = list(dict.fromkeys(r["target"] for r in part))
            sources = list(dict.fromkeys(r["source"] for r in part))
            for number, source in enumerate(sources):
                own = [
                    next(r for r in part if r["target"] == n and r["source"] == source)
                    for n in names
                ]
                x = np.arange(len(names)) + 0.18 * (number - (len(sources) - 1) / 2)
                value, (low, high) = (
                    np.array([r["value"] for r in own]),
                    np.array([r["interval"] for r in own]).T,
                )
                error = np.clip([value - low, high - value], 0, None)
                style = {
                    "fmt": "o",
                    "markersize": 5,
                    "capsize": 2.5,
                    "linewidth": 1.2,
                    "color": COLOURS[number],
                }
                axes.errorbar(x, value, error, label=NAMES[source], **style)
            first = [next(r for r in part if r["target"] == n) for n in names]
            chance = [r["chance"] for r in first]
            axes.scatter(
                range(len(names)), chance, marker="_", s=260, color=REST, zorder=1, label="chance"
            )
            short = [
                n.replace("covering ", "")
                .replace(" of the picture", "")
                .replace(" things in the picture", "")
                for n in names
            ]
            axes.set_xticks(
                range(len(names)), [f"{t}\nn = {r['n']}" for t, r in zip(short, first)], fontsize=8
            )
            axes.set(title=title, ylim=(0, top), xlim=(-0.5, len(names) - 0.5))
            axes.grid(axis="x", visible=False)
        figure.axes[0].set_ylabel(metric)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    return Path(path)
