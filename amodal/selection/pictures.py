"""Pictures of a choice: the scores with the cut, and records at both ends and about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from amodal.core import unknown
from amodal.data import Dataset
from amodal.evaluate.contact_sheet import Card, card, sheet
from amodal.evaluate.drawing import COLOURS, REST, drawing
from amodal.modalities.shared.protocols import Readable
from amodal.selection.chunks import Rows
from amodal.selection.draws import uniform_of
from amodal.selection.pool import Scores, text_of

BINS = 50
CARDS = 8
"""Records in a row."""


def draw_scores(scores: Scores, selected: np.ndarray, cut: float, path: Path) -> Path:
    """A histogram of the scores, with those that are selected in colour."""
    finite = np.isfinite(scores.score)
    values = scores.score[finite]
    with drawing(path, 6.4, 3.2) as figure:
        axes = figure.subplots()
        if len(values):
            # the tails are the point of a choice, but one far value would leave a single bar
            low, high = np.quantile(values, [0.002, 0.998])
            edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
            parts = [
                np.clip(values[selected[finite] == wanted], edges[0], edges[-1])
                for wanted in (True, False)
            ]
            names = [f"stay, {len(parts[0]):,}", f"dropped, {len(parts[1]):,}"]
            axes.hist(parts, edges.tolist(), stacked=True, color=[COLOURS[0], REST], label=names)
        if np.isfinite(cut):
            axes.axvline(cut, color=COLOURS[5], linewidth=1.2, label=f"cut at {cut:.4g}")
        axes.set_xlabel(scores.meaning)
        axes.set_ylabel("records")
        axes.legend(fontsize=8)
    return path


def draw_examples(
    dataset: Dataset,
    rows: Rows,
    scores: Scores,
    selected: np.ndarray,
    path: Path,
    *,
    lowest: bool = False,
    field: str | None = None,
) -> Path:
    """Records with the best scores, the last that stay, the first that are dropped, and the worst.

    Args:
        dataset: Where the records are.
        rows: (N,) their numbers.
        scores: Of these.
        selected: (N,) bool.
        path: A PNG file.
        lowest: Whether low scores are the good ones.
        field: To show; the first that is no text unless set. A text stands below it.

    Raises:
        AmodalError: For an unknown field.
    """
    fields = [*dict.fromkeys([*scores.fields, *dataset.fields])]
    modalities = dataset.fields
    if field is not None and field not in fields:
        raise unknown("field of this data", field, fields)
    texts = [name for name in fields if isinstance(modalities[name], Readable)]
    shown = field or next((n for n in fields if n not in texts), fields[0])
    caption = next((name for name in texts if name != shown), None)
    scored = np.flatnonzero(~np.isnan(scores.score))
    signed = scores.score[scored] * (1 if lowest else -1)
    # among equal scores any, as the first ones of the data are often alike
    drawn = uniform_of([dataset.keys[i] for i in rows[scored].tolist()], 0)
    order = scored[np.lexsort((drawn, ~selected[scored], signed))]
    stay, dropped = order[selected[order]], order[~selected[order]]
    lines = {
        "best": stay[:CARDS],
        "last to stay": stay[CARDS:][-CARDS:],
        "first dropped": dropped[:CARDS],
        "worst": dropped[CARDS:][-CARDS:],
    }
    cards = []
    for name, some in lines.items():
        frame = COLOURS[2] if name in ("best", "last to stay") else COLOURS[5]
        line = [
            _card(dataset, int(rows[i]), shown, caption, f"{scores.score[i]:.4g}", frame)
            for i in some.tolist()
        ]
        if line:
            cards.append([replace(line[0], title=f"{name}: {line[0].title}"), *line[1:]])
    if not cards:
        cards = [[_card(dataset, int(rows[0]), shown, caption, "no scores", "")]]
    return sheet(cards, path, title=f"{scores.meaning}: green stay, red are dropped")


def _card(
    dataset: Dataset, row: int, shown: str, caption: str | None, title: str, frame: str
) -> Card:
    made = card(dataset, row, shown, title, frame=frame)
    text = None if caption is None else text_of(dataset, row, caption)
    return made if text is None else replace(made, caption=text)
