"""The picture of `survival`: Kaplan-Meier curves of those at low and at high predicted risk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amodal.core import AmodalError
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def survival(result: Result, path: str | Path) -> Path:
    """Draw a panel for each field.

    Args:
        result: Of the protocol `survival`.
        path: A PNG file.

    Returns:
        The path.

    Raises:
        AmodalError: If there are no curves to draw.
    """
    groups = result.spec.get("groups") or {}
    if not groups:
        raise AmodalError(
            "this result holds no curves to draw; it is not one of the protocol survival"
        )
    return curves(groups, result.rows, result.spec["label"].split(",")[0], path)


def curves(
    groups: Mapping[str, Mapping[str, Any]], rows: Sequence[Row], time: str, path: str | Path
) -> Path:
    """Draw the curves of risk groups, a panel for each source.

    Args:
        groups: Source -> what `amodal.evaluate.risks.risk_groups` made.
        rows: With the concordance of each source.
        time: Name of the time.
        path: A PNG file.

    Returns:
        The path.
    """
    columns = min(len(groups), 3)
    lines = -(-len(groups) // columns)
    concordance = {r["source"]: r for r in rows if r["metric"] == "concordance"}
    with drawing(path, 3.3 * columns, 2.7 * lines) as figure:
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
        for axes in panels[len(groups) :]:
            axes.remove()
        for axes, (source, group) in zip(panels, groups.items()):
            _panel(axes, source, group, concordance[source])
            axes.set_xlabel(time)
        panels[0].set_ylabel("without the event")
    return Path(path)


def _panel(axes: Axes, source: str, curves: Mapping[str, Any], row: Row) -> None:
    for half, colour in (("low", COLOURS[0]), ("high", COLOURS[5])):
        name = f"{half} risk (n = {curves['n'][half]})"
        points = [
            (t, share)
            for t, share in zip(curves["times"], curves[half])
            if t <= curves["last"][half]
        ]
        if points:
            axes.step(*zip(*points), where="post", color=colour, linewidth=1.6, label=name)
    low, high = row["interval"]
    axes.set(title=f"{source}: C {row['value']:.2f} ({low:.2f}–{high:.2f})")
    axes.set(ylim=(0, 1.03), xlim=(0, None))
    axes.legend(loc="best", fontsize=7, title=f"log-rank p {_small(curves['p'])}", title_fontsize=7)


def _small(p: float) -> str:
    return "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".")
