"""Figures of a run and of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amodal.core import AmodalError
from amodal.evaluate.contact_sheet import retrieval_sheet
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.evaluate.maps import embedding_map, has_places, principal, world_map
from amodal.evaluate.missing_modality_picture import missing_modality
from amodal.evaluate.modality_subsets_picture import modality_subsets
from amodal.evaluate.robustness_picture import missing_modality_robustness
from amodal.evaluate.small_objects_picture import small_objects
from amodal.evaluate.survival_picture import survival
from amodal.evaluate.transfer_picture import cross_modal_transfer
from amodal.train.log import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from amodal.evaluate.result import Report, Result

__all__ = [
    "cross_modal_transfer",
    "curves",
    "embedding_map",
    "has_places",
    "missing_modality",
    "missing_modality_robustness",
    "modality_subsets",
    "principal",
    "report",
    "retrieval_sheet",
    "small_objects",
    "survival",
    "world_map",
]


def report(report: Report, stem: Path) -> list[Path]:
    """Draw the figures of a report: those of its protocols, and a map of the test records.

    Args:
        report: The report.
        stem: Where figures go: `STEM.PROTOCOL.png`.

    Returns:
        The files that were written.
    """
    from amodal.evaluate.protocol_registry import protocol_of_report

    made: list[Path | None] = []
    for result in report.results:
        name = (
            f"{stem}.{result.protocol}"
            + (f".{result.spec['label']}" if _ambiguous(report, result) else "")
            + ".png"
        )
        made.append(protocol_of_report(result.protocol).draw(result, Path(name)))
    if report.test is not None and len(report.test) > 2:
        label = next(
            (r.spec["label"] for r in report.results if r.spec.get("label") in report.test.labels),
            None,
        )
        made.append(embedding_map(report.test, f"{stem}.map.png", label=label))
        if has_places(report.test):
            made.append(
                world_map(
                    [e for e in (report.train, report.test) if e is not None], f"{stem}.world.png"
                )
            )
    return [path for path in made if path is not None]


def _ambiguous(report: Report, result: Result) -> bool:
    return sum(r.protocol == result.protocol for r in report.results) > 1 and bool(
        result.spec.get("label")
    )


def curves(run: str | Path, path: str | Path) -> Path:
    """Draw loss and effective rank of each source over the steps of a run.

    Args:
        run: A run folder.
        path: A PNG file.

    Returns:
        The path.

    Raises:
        AmodalError: If the run has no log.
    """
    entries = read_metrics(Path(run) / "metrics.jsonl")
    if not entries:
        raise AmodalError(f"there is no metrics.jsonl with anything in it in {run}")
    with drawing(path, 8, 3) as figure:
        left, right = figure.subplots(1, 2)
        loss = [(e["step"], e["loss"]) for e in entries if "loss" in e]
        steps, values = np.array(loss).T if loss else ([], [])
        left.plot(steps, values, color=COLOURS[0], alpha=0.35, linewidth=0.8)
        left.plot(steps, _smooth(np.array(values)), color=COLOURS[0], linewidth=1.6)
        left.set(title="loss", xlabel="step")
        sources = sorted(
            {k.removeprefix("rank/") for e in entries for k in e if k.startswith("rank/")}
        )
        ends = []
        for number, source in enumerate(sources):
            points = np.array(
                [(e["step"], e[f"rank/{source}"]) for e in entries if f"rank/{source}" in e]
            )
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


def _labelled_ends(axes: Axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Names at the ends of lines, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    last = -np.inf
    for y, name, colour in sorted(ends):
        last = max(y, last + 0.06 * (high - low))
        axes.annotate(
            name,
            (x, y),
            xytext=(x + 0.02 * x, last),
            color=colour,
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
