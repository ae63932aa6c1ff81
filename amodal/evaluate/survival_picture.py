"""Survival of those predicted to be at low and at high risk: Kaplan and Meier's curves, a panel for
each field."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.evaluate.result import Result


def survival(result: Result, path: str | Path) -> Path:
    """result: of the protocol `survival`."""
    groups = result.spec.get("groups") or {}
    if not groups:
        raise AmodalError(
            "this result holds no curves to draw; it is not one of the protocol survival"
        )
    columns = min(len(groups), 3)
    lines = -(-len(groups) // columns)
    with drawing(path, 3.3 * columns, 2.7 * lines) as figure:
        panels = np.atleast_1d(figure.subplots(lines, columns, sharey=True, squeeze=False)).ravel()
        for axes in panels[len(groups) :]:
            axes.remove()
        for axes, (source, found) in zip(panels, groups.items()):
            for half, colour in (("low", COLOURS[0]), ("high", COLOURS[5])):
                name = f"{half} risk (n = {found['n'][half]})"
                seen = [
                    (t, left)
                    for t, left in zip(found["times"], found[half])
                    if t <= found["last"][half]
                ]
                if seen:
                    axes.step(*zip(*seen), where="post", color=colour, linewidth=1.6, label=name)
            row = next(
                r for r in result.rows if r["source"] == source and r["metric"] == "concordance"
            )
            axes.set(
                title=f"{source}: C {row['value']:.2f} ({row['interval'][0]:.2f}–{row['interval'][1]:.2f})"
            )
            axes.set(ylim=(0, 1.03), xlim=(0, None), xlabel=result.spec["label"].split(",")[0])
            axes.legend(
                loc="best", fontsize=7, title=f"log-rank p {_small(found['p'])}", title_fontsize=7
            )
        panels[0].set_ylabel("without the event")
    return Path(path)


def _small(p: float) -> str:
    return "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".")
