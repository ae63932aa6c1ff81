"""The picture of `modality_subsets`: the matrix of fields in training and at test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate.drawing import drawing
from amodal.evaluate.row import Row


def modality_subsets(rows: Sequence[Row], path: str | Path, *, label: str | None = None) -> Path:
    """Draw a row for each set of fields to learn from and a column for each set to predict from.

    Where both are the same set, the number is bold.

    Args:
        rows: Of the protocol `modality_subsets`.
        path: A PNG file.
        label: What is predicted, for the title.

    Returns:
        The path.

    Raises:
        AmodalError: If there is nothing to draw.
    """
    cells = [r for r in rows if r["metric"] in ("accuracy", "R2") and "own" in r]
    if not cells:
        raise AmodalError("these rows hold no matrix of fields to draw")
    names = list(dict.fromkeys(r["source"] for r in cells))
    value = np.full((len(names), len(names)), np.nan)
    for r in cells:
        value[names.index(r["source"]), names.index(r["target"])] = r["value"]
    low, high = min(cells[0]["chance"], np.nanmin(value)), np.nanmax(value)
    with drawing(path, 2.6 + 0.6 * len(names), 1.5 + 0.36 * len(names)) as figure:
        axes = figure.subplots()
        axes.imshow(value, cmap="PuBu", vmin=low, vmax=high, aspect="auto")
        axes.grid(False)
        for (i, j), v in np.ndenumerate(value):
            dark = v > low + 0.6 * (high - low)
            axes.text(
                j,
                i,
                f"{v:.2f}",
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontweight="bold" if i == j else "normal",
                fontsize=8,
            )
        shown = [n.replace("+", " + ") for n in names]
        axes.set_yticks(range(len(names)), shown, fontsize=8)
        axes.set_xticks(
            range(len(names)), shown, fontsize=8, rotation=30, ha="right", rotation_mode="anchor"
        )
        metric, chance = cells[0]["metric"], cells[0]["chance"]
        title = f"{label + ': ' if label else ''}{metric} (chance {chance:.2f})"
        axes.set(title=title, xlabel="predicted from", ylabel="learnt from")
    return Path(path)
