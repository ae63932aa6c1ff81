"""Pictures of a run and of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate.contact_sheet import retrieval_sheet
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.evaluate.maps import embedding_map, has_places, principal, world_map
from amodal.evaluate.missing_modality_picture import absence
from amodal.evaluate.modality_subsets_picture import sense_sets
from amodal.evaluate.small_objects_picture import small_objects
from amodal.evaluate.survival_picture import survival
from amodal.train.log import read

__all__ = [
    "absence",
    "curves",
    "embedding_map",
    "has_places",
    "missing",
    "principal",
    "report",
    "retrieval_sheet",
    "sense_sets",
    "small_objects",
    "survival",
    "transfer",
    "world_map",
]


def report(report, stem: Path) -> list[Path]:
    """The figures that the results of a Report call for, beside `stem`: missing, absence, sets of senses, survival, transfer, a map of the
    test records."""
    made = []
    for result in report.results:
        name = f"{stem}.{result.protocol}" + (f".{result.spec['label']}" if _ambiguous(report, result) else "") + ".png"
        if result.protocol == "missing":
            made.append(missing(result.rows, name, label=result.spec.get("label")))
        if result.protocol == "absence":
            made.append(absence(result.rows, name, label=result.spec.get("label")))
        if result.protocol == "sense_sets":
            made.append(sense_sets(result.rows, name, label=result.spec.get("label")))
        if result.protocol == "small_objects":
            made.append(small_objects(result.rows, name))
        if result.protocol == "survival":
            made.append(survival(result, name))
        if result.protocol == "transfer":
            made.append(transfer(result.rows, name, label=result.spec.get("label")))
    if report.test is not None and len(report.test) > 2:
        label = next((r.spec["label"] for r in report.results if r.spec.get("label") in report.test.labels), None)
        made.append(embedding_map(report.test, f"{stem}.map.png", label=label))
        if has_places(report.test):
            made.append(world_map([e for e in (report.train, report.test) if e is not None], f"{stem}.world.png"))
    return made


def _ambiguous(report, result) -> bool:
    return sum(r.protocol == result.protocol for r in report.results) > 1 and bool(result.spec.get("label"))


# From a run


def curves(run: str | Path, path: str | Path) -> Path:
    """Loss and effective rank of each source over the steps of a run folder."""
    entries = read(Path(run) / "metrics.jsonl")
    if not entries:
        raise AmodalError(f"there is no metrics.jsonl with anything in it in {run}")
    with drawing(path, 8, 3) as figure:
        left, right = figure.subplots(1, 2)
        loss = [(e["step"], e["loss"]) for e in entries if "loss" in e]
        steps, values = np.array(loss).T if loss else ([], [])
        left.plot(steps, values, color=COLOURS[0], alpha=0.35, linewidth=0.8)
        left.plot(steps, _smooth(np.array(values)), color=COLOURS[0], linewidth=1.6)
        left.set(title="loss", xlabel="step")
        sources = sorted({k.removeprefix("rank/") for e in entries for k in e if k.startswith("rank/")})
        ends = []
        for number, source in enumerate(sources):
            points = np.array([(e["step"], e[f"rank/{source}"]) for e in entries if f"rank/{source}" in e])
            colour = COLOURS[number % len(COLOURS)]
            right.plot(*points.T, color=colour, marker="o", markersize=2.5, linewidth=1.4)
            ends.append((points[-1, 1], source, colour))
        right.set(title="effective rank of the features (held out)", xlabel="step")
        right.set_ylim(bottom=0)
        _labelled_ends(right, max((e["step"] for e in entries), default=1), ends)
    return Path(path)


def _smooth(values: np.ndarray) -> np.ndarray:
    width = max(1, len(values) // 20)
    return np.array([values[max(0, i - width) : i + width + 1].mean() for i in range(len(values))])


def _labelled_ends(axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Names at the ends of lines, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    last = -np.inf
    for y, name, colour in sorted(ends):
        last = max(y, last + 0.06 * (high - low))
        axes.annotate(
            name, (x, y), xytext=(x + 0.02 * x, last), color=colour, va="center", fontsize=8, annotation_clip=False
        )


# From rows of results


def missing(rows: Sequence[dict], path: str | Path, *, label: str | None = None) -> Path:
    """For every subset of senses: with these senses alone (dot), with all that the same records have (ring), chance (tick)."""
    probes = [r for r in rows if "target" not in r and r["metric"] in ("accuracy", "R2")]
    probes = [r for r in probes if r["probe"] == probes[0]["probe"]] if probes else []
    found = [r for r in rows if "target" in r]
    panels = (
        [(f"{label + ': ' if label else ''}{probes[0]['metric']} of a {probes[0]['probe']} probe", probes)]
        if probes
        else []
    )
    for target in dict.fromkeys(r["target"] for r in found):
        panels.append((f"finding {target}: {found[0]['metric']}", [r for r in found if r["target"] == target]))
    panels = [(title, _fewer(part)) for title, part in panels]
    if not panels:
        raise AmodalError("these rows hold nothing about missing senses to draw")
    columns = min(len(panels), 3)
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [0.75 + 0.21 * max(len(part) for _, part in line) for line in lines]
    with drawing(path, 4.2 * columns, sum(heights) + 0.3) as figure:
        grid = figure.add_gridspec(len(lines), columns, height_ratios=heights)
        for i, line in enumerate(lines):
            for j, (title, part) in enumerate(line):
                axes = figure.add_subplot(grid[i, j])
                y = np.arange(len(part))[::-1]
                value, full = np.array([r["value"] for r in part]), np.array([r["full"] for r in part])
                axes.hlines(y, value, full, color="#C9D3DB", linewidth=2, zorder=1)
                ring = {"facecolors": "white", "edgecolors": "#666666", "linewidths": 1}
                axes.scatter(full, y, s=26, zorder=2, label="all senses the record has", **ring)
                axes.scatter(value, y, s=26, color=COLOURS[0], zorder=3, label="these senses alone")
                axes.scatter(
                    [r["chance"] for r in part], y, s=40, marker="|", color=COLOURS[5], zorder=2, label="chance"
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
    kept = [r for r, s in zip(rows, sizes) if s in ends]
    return kept if len(kept) <= most else [r for r, s in zip(rows, sizes) if s in ends - {2}]


def transfer(rows: Sequence[dict], path: str | Path, *, label: str | None = None) -> Path:
    """The matrix of senses that labels were given in by senses that they are used in, a panel for each probe."""
    rows = [r for r in rows if r["metric"] in ("accuracy", "R2")]
    probes = list(dict.fromkeys(r["probe"] for r in rows))
    names = list(dict.fromkeys([r["source"] for r in rows] + [r["target"] for r in rows]))
    if not rows:
        raise AmodalError("these rows hold nothing about transfer to draw")
    side = 1.5 + 0.55 * len(names)
    with drawing(path, (side + 0.6) * len(probes), side + 0.4) as figure:
        for axes, probe in zip(np.atleast_1d(figure.subplots(1, len(probes))), probes):
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
                    j, i, f"{matrix[i, j]:.2f}".replace("0.", "."), ha="center", va="center", color=colour, fontsize=8
                )
            axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(names)), names)
            chance = np.mean([r["chance"] for r in rows])
            axes.set(
                title=f"{probe}: {rows[0]['metric']} (chance {chance:.2f})", xlabel="used in", ylabel="labels given in"
            )
    return Path(path)
