"""The ratios of a benchmark as bars: how many times as long, and as much memory, the peer takes.
Doubling is one step, up or down."""

from __future__ import annotations

import math
from pathlib import Path

OURS, PEERS, MEMORY, WANTED = "#2a6f97", "#c1666b", "#c9ced6", "#444444"


def draw(entry: dict, folder: Path) -> Path | None:
    """NAME.png of an entry of `benchmarks._results`; None where no row has a ratio."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullLocator

    rows = [row for row in entry["rows"] if "speed" in row]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(10, 1.4 + 0.42 * len(rows)), layout="constrained")
    memory = [
        row.get("memory", math.nan)
        if min(row.get("ours_mib", 0), row.get("peer_mib", 0)) > 0
        else math.nan
        for row in rows
    ]
    for i, row in enumerate(rows):
        speed, (low, high) = row["speed"], row.get("spread") or (row["speed"],) * 2
        axes.barh(i, speed - 1, 0.5, left=1, color=OURS if speed >= 1 else PEERS, zorder=2)
        axes.hlines(i, low, high, color="black", linewidth=1.2, zorder=4)
        axes.vlines((low, high), i - 0.12, i + 0.12, color="black", linewidth=1.2, zorder=4)
        if math.isfinite(memory[i]):
            axes.plot(
                memory[i],
                i + 0.33,
                "D",
                color=MEMORY,
                markeredgecolor="#7d8590",
                markersize=5,
                zorder=3,
            )
        if "goal" in row:
            axes.vlines(
                row["goal"], i - 0.4, i + 0.4, color=WANTED, linewidth=1.5, linestyle=":", zorder=5
            )
        axes.annotate(
            f"{speed:.2f}x {row['peer']}",
            (max(high, 1), i),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    values = [
        v
        for row, m in zip(rows, memory)
        for v in (row["speed"], *row.get("spread", ()), m)
        if math.isfinite(v) and v > 0
    ]
    axes.set_xscale("log", base=2)
    low, high = min(0.7, *values) / 1.1, max(1.5, *values)
    axes.set_xlim(low, high * (high / low) ** 0.35)  # room for the names
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}x"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(1, color="black", linewidth=0.8, zorder=5)
    axes.set_yticks(range(len(rows)), [row["what"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", color="#eeeeee", zorder=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        "peer / ours: bar: time, with smallest and largest ratio; diamond: memory; dotted: goal",
        fontsize=8,
    )
    axes.set_title(
        f"{entry['name']} ({entry['machine']}, {entry['date'][:10]})", fontsize=9, loc="left"
    )
    path = folder / f"{entry['name']}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
