"""How our pictures look. Drawn without pyplot, so that nothing of a caller's figures is touched."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

from amodal.core import AmodalError

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#444444")
"""Okabe & Ito's, which people with any kind of colour vision can tell apart."""

REST = "#BBBBBB"
STYLE = {
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
def drawing(path: str | Path, width: float, height: float):
    """Yields a Figure of that many inches and writes it to `path` afterwards."""
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
