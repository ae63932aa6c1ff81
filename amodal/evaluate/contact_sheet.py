"""Sheets of records as pictures: queries and what they found."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.core.column import shared_rows
from amodal.data import Dataset
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.inference.embed import Embedded
from amodal.modalities import BadValue


@dataclass(frozen=True)
class Card:
    """One picture of a sheet. frame: "" or a colour around it."""

    picture: np.ndarray
    title: str
    caption: str = ""
    frame: str = ""


def sheet(rows: Sequence[Sequence[Card | None]], path: str | Path, *, title: str = "") -> Path:
    """A grid of pictures with a line above and a few words below each; the first column, the query,
    stands a little apart."""
    columns = max(len(row) for row in rows)
    captions = any(card and card.caption for row in rows for card in row)
    with drawing(
        path, 1.45 * columns, (1.78 if captions else 1.62) * len(rows) + (0.3 if title else 0)
    ) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for line, row in zip(grid, rows):
            for axes, card in zip(line, [*row, *[None] * (columns - len(row))]):
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
                for spine in axes.spines.values():
                    spine.set_visible(bool(card and card.frame))
                    spine.set(color=card.frame if card and card.frame else "none", linewidth=2.5)
                if card is None:
                    continue
                axes.imshow(
                    card.picture,
                    interpolation="nearest" if max(card.picture.shape[:2]) < 96 else "antialiased",
                )
                axes.set_title(
                    textwrap.shorten(card.title, 26, placeholder="…"),
                    fontsize=7,
                    loc="center",
                    pad=3,
                )
                axes.set_xlabel(
                    "\n".join(textwrap.wrap(card.caption, 26)[:2]), fontsize=6, labelpad=2
                )
        if title:
            figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return Path(path)


def card(dataset: Dataset, i: int, field: str, title: str, *, frame: str = "") -> Card:
    """One field of record i."""
    modality = dataset.fields[field]
    try:
        value = dataset.value(i, field)
    except BadValue as error:
        return Card(np.full((32, 32, 3), 238, dtype=np.uint8), title, str(error), frame)
    if value is None:
        return Card(np.full((32, 32, 3), 238, dtype=np.uint8), title, f"no {field}", frame)
    caption = "" if modality.self_explaining else modality.describe(value)
    return Card(modality.show(value), title, caption, frame)


def retrieval_sheet(
    embedded: Embedded,
    dataset: Dataset,
    path: str | Path,
    *,
    source: str | None = None,
    target: str | None = None,
    queries: int = 5,
    k: int = 6,
    seed: int = 0,
) -> Path:
    """Queries by one field with the nearest records by another; the query's own record has a frame.
    Fields: the pair that most records have, unless given."""
    source, target = _pair(embedded, source, target)
    at_a, at_b = shared_rows(embedded.aligned[source], embedded.aligned[target])
    a, b = embedded.aligned[source], embedded.aligned[target]
    gallery = normalize(b.values[at_b].float(), dim=1)
    picked = np.sort(np.random.default_rng(seed).permutation(len(at_a))[:queries])
    place = {key: i for i, key in enumerate(dataset.keys)}
    rows = []
    for q in picked.tolist():
        similarity = gallery @ normalize(a.values[at_a[q]].float(), dim=0)
        key = embedded.keys[int(a.rows[at_a[q]])]
        order = similarity.argsort(descending=True)
        rank = int((order == q).nonzero()) + 1
        cards = [card(dataset, place[key], source, f"{source}: {key}")]
        for r in order[:k].tolist():
            other = embedded.keys[int(b.rows[at_b[r]])]
            cards.append(
                card(
                    dataset,
                    place[other],
                    target,
                    f"{other}  {similarity[r]:.2f}",
                    frame=COLOURS[2] if r == q else "",
                )
            )
        if rank > k:
            cards.append(
                card(dataset, place[key], target, f"right one: place {rank}", frame=COLOURS[1])
            )
        rows.append(cards)
    title = f"{source} looks for {target} among {len(at_b):,} records (green: the right one)"
    return sheet(rows, path, title=title)


def _pair(embedded: Embedded, source: str | None, target: str | None) -> tuple[str, str]:
    fields = embedded.sources
    pairs = [
        (a, b)
        for a in fields
        for b in fields
        if a != b and source in (None, a) and target in (None, b)
    ]
    counts = {
        pair: len(shared_rows(embedded.aligned[pair[0]], embedded.aligned[pair[1]])[0])
        for pair in pairs
    }
    best = max(counts, key=counts.get, default=None)
    if best is None or counts[best] < 2:
        asked = " and ".join(s for s in (source, target) if s) or "any two fields"
        raise AmodalError(
            f"{asked} do not occur together in these records, whose fields are {', '.join(fields)}"
        )
    return best
