"""The picture of `missing_modality_robustness`."""

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

CORRUPTIONS = ("exchange", "drop", "noise")


def missing_modality_robustness(
    rows: Sequence[Row], path: str | Path, *, label: str | None = None
) -> Path:
    """Draw all parts of the protocol.

    Panels: score over the share that is hidden, for each imputation; the matrix of hidden in
    training by hidden at test; the importance of each field; hiding that depends on the label; and
    the cost of each corruption.

    Args:
        rows: Of the protocol `missing_modality_robustness`.
        path: A PNG file.
        label: What is predicted, for the title.

    Returns:
        The path.

    Raises:
        AmodalError: If there is nothing to draw.
    """
    if not rows:
        raise AmodalError("these rows hold nothing about missing fields to draw")
    metric = next(r["metric"] for r in rows if r["metric"] != "worth")
    of = {
        part: [r for r in rows if r["part"] == part]
        for part in dict.fromkeys(r["part"] for r in rows)
    }
    of = {part: [r for r in many if r["metric"] in (metric, "worth")] for part, many in of.items()}
    corruptions = [kind for kind in CORRUPTIONS if kind in of]
    with drawing(path, 14.5, 6.6 if corruptions else 3.4) as figure:
        grid = figure.subplots(2 if corruptions else 1, 4, squeeze=False)
        imputations, matrix, importance, by_label = grid[0]
        _imputations(imputations, of["ways"], metric)
        _matrix(matrix, of["random"], metric)
        _importance(importance, of.get("worth", []), metric)
        _by_label(by_label, of.get("label", []) + of.get("leak", []), metric)
        seen = [
            r[k]
            for kind in corruptions
            for r in of[kind]
            for k in ("value", "full", "without")
            if np.isfinite(r[k])
        ]
        low, high = min([0.0, *seen]), max([0.1, *seen])
        names = list(dict.fromkeys(r["source"] for kind in corruptions for r in of[kind]))
        for axes, kind in zip(grid[1] if corruptions else (), corruptions):
            _corruption(axes, kind, of[kind], metric, names)
            axes.set_ylim(low - 0.03 * (high - low) * (low < 0), high + 0.05 * (high - low))
        for axes in grid[1][len(corruptions) :] if corruptions else ():
            axes.axis("off")
        if corruptions:
            axes = grid[1][-1]
            handles = [
                axes.plot([], [], color=COLOURS[i % len(COLOURS)], marker="o", label=name)[0]
                for i, name in enumerate(names)
            ]
            handles += axes.plot([], [], color="#666666", linestyle=":", label="that field hidden")
            axes.legend(handles=handles, loc="center left", title="corruption of")
        if label:
            figure.suptitle(f"predicting {label}", x=0.01, ha="left", fontsize=11)
    return Path(path)


def _imputations(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    for number, way in enumerate(dict.fromkeys(r["source"] for r in rows)):
        own_rows = [r for r in rows if r["source"] == way]
        chosen = own_rows[0]["chosen"]
        axes.plot(
            [_percent(r["target"]) for r in own_rows],
            [r["value"] for r in own_rows],
            color=COLOURS[number],
            marker="o",
            markersize=4,
            linewidth=2.4 if chosen else 1.2,
            label=way + (" (chosen)" if chosen else ""),
        )
    axes.axhline(rows[0]["chance"], color=COLOURS[5], linewidth=1, linestyle="--", label="chance")
    axes.set(title=f"{metric}, values hidden at random", xlabel="% of test values hidden")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.legend(fontsize=7)


def _matrix(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    sources, targets = (list(dict.fromkeys(r[k] for r in rows)) for k in ("source", "target"))
    matrix = np.full((len(sources), len(targets)), np.nan)
    for r in rows:
        matrix[sources.index(r["source"]), targets.index(r["target"])] = r["value"]
    top = max(float(np.nanmax(matrix)), 0.1) if np.isfinite(matrix).any() else 1.0
    axes.grid(False)
    axes.imshow(np.clip(matrix, 0, None), cmap="cividis", vmin=0, vmax=top, aspect="auto")
    for i, j in zip(*np.nonzero(np.isfinite(matrix))):
        colour = "black" if matrix[i, j] > 0.55 * top else "white"
        axes.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(targets)), [_percent(t) for t in targets])
    axes.set_yticks(range(len(sources)), [_percent(s) for s in sources])
    axes.set(
        title=f"{metric}, hidden in training by test",
        xlabel="% hidden in test",
        ylabel="% hidden in training",
    )


def _importance(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    if not rows:
        axes.axis("off")
        return
    y = np.arange(len(rows))[::-1]
    axes.barh(
        y,
        [r["value"] for r in rows],
        color=[COLOURS[i % len(COLOURS)] for i in range(len(rows))],
        height=0.6,
    )
    axes.scatter(
        [r["alone"] for r in rows], y, marker="|", s=90, color="black", label="alone", zorder=3
    )
    axes.scatter(
        [r["last"] for r in rows], y, marker="x", s=26, color="black", label="added last", zorder=3
    )
    axes.axvline(0, color="#666666", linewidth=0.8)
    axes.set_yticks(y, [r["source"] for r in rows])
    axes.set(title=f"importance of each field (Shapley), {metric}")
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=7)


def _by_label(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    arms, asked = (
        list(dict.fromkeys(r[k] for r in rows if r["part"] == "label"))
        for k in ("source", "target")
    )
    leak = next((r for r in rows if r["part"] == "leak"), None)
    y, thick = np.arange(len(arms))[::-1], 0.8 / max(len(asked), 1)
    for number, target in enumerate(asked):
        found = {
            r["source"]: r["value"] for r in rows if r["part"] == "label" and r["target"] == target
        }
        colour = (COLOURS[0], REST, COLOURS[5])[number % 3]
        axes.barh(
            y - (number - 1) * thick,
            [found.get(a, np.nan) for a in arms],
            thick,
            color=colour,
            label=target,
        )
    if leak is not None:
        axes.axvline(
            leak["value"],
            color="black",
            linewidth=1,
            linestyle=":",
            label="presence, data as it is",
        )
    axes.set_yticks(y, [a.replace(", ", ",\n") for a in arms], fontsize=8)
    axes.set(title=f"{metric}, hidden depending on the label")
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.08), ncols=2)


def _corruption(
    axes: Axes, kind: str, rows: Sequence[Row], metric: str, names: Sequence[str]
) -> None:
    for number, field in enumerate(names):
        own_rows, colour = [r for r in rows if r["source"] == field], COLOURS[number % len(COLOURS)]
        if not own_rows:
            continue
        axes.plot(
            [0, *(r["severity"] for r in own_rows)],
            [own_rows[0]["full"], *(r["value"] for r in own_rows)],
            color=colour,
            marker="o",
            markersize=3,
        )
        axes.axhline(own_rows[0]["without"], color=colour, linewidth=1, linestyle=":")
    what = (
        "deviations of noise"
        if kind == "noise"
        else f"share of parts {'exchanged' if kind == 'exchange' else 'dropped'}"
    )
    axes.set(title=f"{metric}, {kind}", xlabel=what)


def _percent(text: str) -> str:
    return next(word for word in text.split() if word.endswith("%")).removesuffix("%")
