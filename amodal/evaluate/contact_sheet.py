"""Contact sheets: queries and the records that they retrieve, as pictures."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.core.column import shared_rows
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.inference.embed import Embedded
from amodal.modalities import BadValue

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Card:
    """One picture of a sheet.

    Args:
        picture: (rows, columns, 3) uint8.
        title: Above it.
        caption: Below it.
        frame: The colour of its frame, "" for none.
    """

    picture: np.ndarray
    title: str
    caption: str = ""
    frame: str = ""


def sheet(rows: Sequence[Sequence[Card]], path: str | Path, *, title: str = "") -> Path:
    """Draw a grid of pictures with titles and captions.

    Args:
        rows: The pictures; rows may have different lengths.
        path: A PNG file.
        title: Above all.

    Returns:
        The path.
    """
    columns = max(len(row) for row in rows)
    captions = any(card.caption for row in rows for card in row)
    with drawing(
        path, 1.45 * columns, (1.78 if captions else 1.62) * len(rows) + (0.3 if title else 0)
    ) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for line, row in zip(grid, rows):
            for axes, card_ in itertools.zip_longest(line, row):
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
                frame = card_.frame if card_ is not None else ""
                for spine in axes.spines.values():
                    spine.set_visible(bool(frame))
                    spine.set(color=frame or "none", linewidth=2.5)
                if card_ is not None:
                    _draw(axes, card_)
        if title:
            figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return Path(path)


def _draw(axes: Axes, card_: Card) -> None:
    small = max(card_.picture.shape[:2]) < 96
    axes.imshow(card_.picture, interpolation="nearest" if small else "antialiased")
    title = textwrap.shorten(card_.title, 26, placeholder="…")
    axes.set_title(title, fontsize=7, loc="center", pad=3)
    axes.set_xlabel("\n".join(textwrap.wrap(card_.caption, 26)[:2]), fontsize=6, labelpad=2)


def card(dataset: Dataset, i: int, field: str, title: str, *, frame: str = "") -> Card:
    """One field of record i as a card. A missing or unreadable value is a grey square."""
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
    """Draw queries by one field with the nearest records by another.

    The query's own record has a green frame. Where it is not among the k nearest it is added with
    its rank.

    Args:
        embedded: Embedded records.
        dataset: Where their values are.
        path: A PNG file.
        source: The field of the queries; the pair that most records have unless set.
        target: The field of the gallery.
        queries: How many.
        k: Records for each query.
        seed: Of the choice of queries.

    Returns:
        The path.

    Raises:
        AmodalError: If no two records have both fields.
    """
    source, target = _pair(embedded, source, target)
    a, b = embedded.aligned[source], embedded.aligned[target]
    at_a, at_b = shared_rows(a, b)
    gallery = normalize(vectors_of(b)[at_b].float(), dim=1)
    picked = np.sort(np.random.default_rng(seed).permutation(len(at_a))[:queries])
    place = {key: i for i, key in enumerate(dataset.keys)}
    rows = []
    for q in picked.tolist():
        similarity = gallery @ normalize(vectors_of(a)[at_a[q]].float(), dim=0)
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
                card(dataset, place[key], target, f"right one: rank {rank}", frame=COLOURS[1])
            )
        rows.append(cards)
    title = f"{target} by {source} among {len(at_b):,} records (green: the right one)"
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
    best = max(counts, key=lambda pair: counts[pair], default=None)
    if best is None or counts[best] < 2:
        named = " and ".join(s for s in (source, target) if s) or "any two fields"
        raise AmodalError(
            f"{named} do not occur together in these records, whose fields are {', '.join(fields)}"
        )
    return best
