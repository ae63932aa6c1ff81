"""The style of pictures. Drawn without pyplot, so that a caller's own figures are not touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amodal.core import AmodalError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#444444")
"""Okabe and Ito's, which people with any kind of colour vision can distinguish."""

REST = "#BBBBBB"
"""The colour of what has no colour of its own."""

# the keys of rcParams are literals in matplotlib's types
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "figure.dpi": 130,
    "savefig.dpi": 130,
}


@contextmanager
def drawing(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """A figure that is written to a file afterwards.

    Args:
        path: A PNG file; its folder is made.
        width: In inches.
        height: In inches.

    Raises:
        AmodalError: If the file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(path, facecolor="white")
        except OSError as error:
            raise AmodalError(f"could not write the picture {path}: {error}") from error
