"""The picture of `cross_modal_transfer`: a matrix of fields, one for each probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate.drawing import drawing
from amodal.evaluate.row import Row


def cross_modal_transfer(
    rows: Sequence[Row], path: str | Path, *, label: str | None = None
) -> Path:
    """Draw the fields that labels were learnt in by the fields that they are used in.

    Args:
        rows: Of the protocol `cross_modal_transfer`.
        path: A PNG file.
        label: Not used; all pictures of protocols take it.

    Returns:
        The path.

    Raises:
        AmodalError: If there is nothing to draw.
    """
    rows = [r for r in rows if r["metric"] in ("accuracy", "R2")]
    probes = list(dict.fromkeys(r["probe"] for r in rows))
    names = list(dict.fromkeys([r["source"] for r in rows] + [r["target"] for r in rows]))
    if not rows:
        raise AmodalError("these rows hold nothing about transfer to draw")
    side = 1.5 + 0.55 * len(names)
    with drawing(path, (side + 0.6) * len(probes), side + 0.4) as figure:
        for axes, probe in zip(figure.subplots(1, len(probes), squeeze=False)[0], probes):
            matrix = np.full((len(names), len(names)), np.nan)
            for r in rows:
                if r["probe"] == probe:
                    matrix[names.index(r["source"]), names.index(r["target"])] = r["value"]
            axes.grid(False)
            top = max(float(np.nanmax(matrix)), 0.1)
            axes.imshow(np.clip(matrix, 0, 1), cmap="cividis", vmin=0, vmax=top)
            for i, j in zip(*np.nonzero(np.isfinite(matrix))):
                colour = "black" if matrix[i, j] > 0.55 * top else "white"
                axes.text(
                    j,
                    i,
                    f"{matrix[i, j]:.2f}".replace("0.", "."),
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize=8,
                )
            axes.set_xticks(
                range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor"
            )
            axes.set_yticks(range(len(names)), names)
            chance = np.mean([r["chance"] for r in rows])
            axes.set(
                title=f"{probe}: {rows[0]['metric']} (chance {chance:.2f})",
                xlabel="used in",
                ylabel="labels learnt in",
            )
    return Path(path)
