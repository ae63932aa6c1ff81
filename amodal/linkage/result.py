"""What linking gives: the nearest record of each, whether it is a link, and groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from amodal.console import Printed
from amodal.core import AmodalError
from amodal.evaluate.contact_sheet import Card, card, sheet
from amodal.evaluate.drawing import COLOURS
from amodal.evaluate.linkage import adjusted_rand
from amodal.inference.write_table import save_table
from amodal.linkage.nearest import Nearest
from amodal.linkage.sides import Side

SUFFIXES = (".csv", ".parquet")
PAIRS = 4
"""Pairs in a row of the picture."""
SHOWN = 8
"""Links in the table."""


@dataclass(frozen=True, kw_only=True)
class Links(Printed):
    """Links of the N records of one side.

    Args:
        one: The records.
        other: Those that they are linked to; None for each other.
        nearest: The nearest of each.
        linked: (N,) bool, whether it is a link.
        group: (N,) int64 group of each, within one set; None between two.
        threshold: Least cosine of a link; None without.
        tuned: Whether it was chosen on the validation part.
        many_to_one: Whether links need not be mutual.
        linkage: Of groups.
        simple: Name -> the nearest by what needs no network.
        truth: (N,) and (M,) labels of both sides; None without.
        label: Name of the label.
        measured: (N,) bool, records that links are measured on; None for all.
        trained_on: Whether the run was trained on all of these.
    """

    one: Side
    other: Side | None
    nearest: Nearest
    linked: np.ndarray
    group: np.ndarray | None = None
    threshold: float | None = None
    tuned: bool = False
    many_to_one: bool = False
    linkage: str = "single"
    simple: Mapping[str, Nearest] = field(default_factory=dict)
    truth: tuple[np.ndarray, np.ndarray] | None = None
    label: str = ""
    measured: np.ndarray | None = None
    trained_on: bool = False

    @property
    def keys(self) -> Side:
        """The side that is linked to."""
        return self.one if self.other is None else self.other

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Metric -> who -> value, against the label: `top-1` (the nearest has the same label, of
        the records whose label another has), `precision` and `recall` of links, and the adjusted
        Rand index of groups. Who is `links`, the names in `simple` (whose nearest neighbours are
        linked, mutual ones if those of `links` are, whatever their similarity), or `chance`. A
        nearest record without a label is neither right nor wrong: such records do not count."""
        if self.truth is None:
            return {}
        mine, theirs = self.truth
        rows = np.flatnonzero(self._measured() & np.array([t is not None for t in mine]))
        counts: dict[str, int] = {}
        for value in theirs.tolist():
            if value is not None:
                counts[value] = counts.get(value, 0) + 1
        itself = int(self.other is None)
        most = np.array([counts.get(mine[i], 0) - itself for i in rows])
        some = rows[most > 0]
        if not len(some):
            return {}
        total = max(sum(counts.values()) - itself, 1)
        result: dict[str, dict[str, float]] = {"top-1": {}, "precision": {}, "recall": {}}
        for name, near in {"links": self.nearest, **self.simple}.items():
            linked = self.linked if name == "links" else near.mutual | self._any_nearest
            judged = np.array([t is not None for t in theirs[near.index]]) & (near.index >= 0)
            right = judged & (theirs[near.index] == mine)
            among, links = some[judged[some]], rows[judged[rows] & linked[rows]]
            result["top-1"][name] = _mean(right[among])
            result["precision"][name] = _mean(right[links])
            result["recall"][name] = _mean((right & linked)[among])
        result["top-1"]["chance"] = float(most[most > 0].mean() / total)
        if self.group is not None:
            groups = self.group[rows]
            result["ARI"] = {"links": adjusted_rand(mine[rows].astype(str), groups)}
        return result

    @property
    def _any_nearest(self) -> bool:
        """Whether links need not be mutual."""
        return self.many_to_one or (self.other is None and self.threshold is not None)

    def _measured(self) -> np.ndarray:
        return np.ones(len(self.linked), dtype=bool) if self.measured is None else self.measured

    @property
    def sentence(self) -> str:
        """How many are linked, how, and how well."""
        total, links = len(self.linked), int(self.linked.sum())
        how = "mutual nearest neighbours"
        if self._any_nearest:
            how = "nearest neighbours"
        if self.threshold is not None:
            chosen = ", chosen on the validation part" if self.tuned else ""
            how += f" with a cosine of {self.threshold:.3f} or more{chosen}"
        to = "each other" if self.other is None else f"{len(self.keys.rows):,} others"
        parts = [f"{links:,} of {total:,} records are linked to {to}: {how}"]
        if self.group is not None:
            sizes = np.bincount(self.group)
            parts.append(
                f"{int((sizes > 1).sum()):,} groups of two or more, the largest of "
                f"{int(sizes.max()):,}; {len(sizes):,} different things"
            )
        for name, near in self.simple.items():
            same = float((near.index == self.nearest.index).mean())
            parts.append(f"{name} take the same nearest for {same:.0%}")
        for metric, values in self.scores.items():
            (_, value), *others = values.items()
            beside = ", ".join(f"{name} {number:.2f}" for name, number in others)
            parts.append(f"{metric} {value:.2f}{f' ({beside})' if beside else ''}")
        if self.truth is not None:
            parts.append(self._measured_on())
        return "; ".join(parts)

    def _measured_on(self) -> str:
        assert self.truth is not None
        known = self._measured() & np.array([t is not None for t in self.truth[0]])
        if not self.scores:
            why = "the threshold was chosen on all of them" if self.tuned else "none has a match"
            return f"of no record with {self.label} can it be said how good links are: {why}"
        text = f"measured on {int(known.sum()):,} records with {self.label}"
        text += ", none of which chose the threshold" if self.tuned else ""
        return text + (
            "; the run was trained on all of them, so that this flatters" if self.trained_on else ""
        )

    def table(self) -> Group:
        """For a terminal: the sentence, and links from the surest to the least sure."""
        order = self._order(linked=True)
        shown = Table()
        for heading in ("record", "linked to", "cosine", "margin"):
            shown.add_column(
                heading, justify="right" if heading in ("cosine", "margin") else "left"
            )
        places = np.unique(np.linspace(0, max(len(order) - 1, 0), SHOWN).astype(int))
        for i in order[places] if len(order) else ():
            row = self._row(int(i))
            margin = "" if row["margin"] is None else f"{row['margin']:.3f}"
            shown.add_row(escape(row["key"]), escape(row["other"]), f"{row['score']:.3f}", margin)
        sentence = escape(f"{self.sentence}.")
        return Group(sentence, shown) if len(order) else Group(sentence)

    def _order(self, *, linked: bool) -> np.ndarray:
        """Records that are linked, or not, the most similar pairs first, each pair once."""
        rows = np.flatnonzero((self.linked == linked) & (self.nearest.index >= 0))
        if self.other is None:  # a mutual pair stands twice
            rows = rows[~(self.nearest.mutual[rows] & (self.nearest.index[rows] < rows))]
        return rows[np.argsort(-self.nearest.score[rows], kind="stable")]

    def _row(self, i: int) -> dict[str, Any]:
        near, keys = self.nearest, self.keys
        has = near.index[i] >= 0
        row = {
            "key": self.one.dataset.keys[int(self.one.rows[i])],
            "other": keys.dataset.keys[int(keys.rows[near.index[i]])] if has else None,
            "score": round(float(near.score[i]), 6) if has else None,
            "margin": None if np.isnan(near.margin[i]) else round(float(near.margin[i]), 6),
            "mutual": bool(near.mutual[i]),
            "linked": bool(self.linked[i]),
        }
        return row if self.group is None else {**row, "group": int(self.group[i])}

    def rows(self) -> list[dict[str, Any]]:
        """key, other (the nearest), score (its cosine), margin (by how much the second is less
        similar), mutual, linked, and within one set group, of each record."""
        return [self._row(i) for i in range(len(self.linked))]

    def save(self, path: str | Path) -> Path:
        """Write `rows` to a .csv or .parquet file.

        Raises:
            AmodalError: For another ending, and if it cannot be written.
        """
        path = check_suffix(path)
        types = {"key": pa.string(), "other": pa.string(), "score": pa.float64()}
        types |= {"margin": pa.float64(), "mutual": pa.bool_(), "linked": pa.bool_()}
        types |= {} if self.group is None else {"group": pa.int64()}
        table = pa.Table.from_pylist(self.rows(), schema=pa.schema(types))
        return save_table(table, path)

    def save_picture(self, path: str | Path) -> Path:
        """Draw pairs: the surest links, the last, and the nearest that are none.

        Raises:
            AmodalError: For another ending than .png, and if it cannot be written.
        """
        check_picture(path)
        linked, others = self._order(linked=True), self._order(linked=False)
        lines = {
            "surest": linked[:PAIRS],
            "last linked": linked[PAIRS:][-PAIRS:],
            "first not": others[:PAIRS],
        }
        cards: list[list[Card]] = []
        for name, rows in lines.items():
            line = [c for i in rows.tolist() for c in self._pair(name, int(i))]
            cards += [line] if line else []
        if not cards:
            raise AmodalError("there is no pair to draw")
        return sheet(cards, path, title="pairs, side by side (green: linked)")

    def _pair(self, name: str, i: int) -> list[Card]:
        frame, near, keys = COLOURS[2] if self.linked[i] else COLOURS[5], self.nearest, self.keys
        row, place = int(self.one.rows[i]), int(keys.rows[near.index[i]])
        mine, theirs = (
            next((f for f in side.fields if side.dataset.present(f)[at_row]), side.fields[0])
            for side, at_row in ((self.one, row), (keys, place))
        )
        return [
            card(self.one.dataset, row, mine, f"{name} {near.score[i]:.3f}", frame=frame),
            card(keys.dataset, place, theirs, keys.dataset.keys[place], frame=frame),
        ]


def _mean(right: np.ndarray) -> float:
    return float(right.mean()) if len(right) else float("nan")


def check_suffix(path: str | Path) -> Path:
    """The path of a table. Raises AmodalError for an ending that is none of `SUFFIXES`."""
    if Path(path).suffix not in SUFFIXES:
        raise AmodalError(f"links are written to a {' or '.join(SUFFIXES)} file, not {path}")
    return Path(path)


def check_picture(path: str | Path) -> Path:
    """The path of a picture. Raises AmodalError for an ending other than .png."""
    if Path(path).suffix != ".png":
        raise AmodalError(f"the picture is written to a .png file, not {path}")
    return Path(path)
