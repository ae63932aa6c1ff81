"""What mapping gives: a folder of pictures, and a table of what takes which share of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from amodal.console import Printed
from amodal.maps.measure import THIS
from amodal.maps.scores import Score

SHOWN = 12
"""Records of the table for a terminal."""
CLEAR = 0.8
"""Share of the variance between the two groups of a threshold, below which they are no two groups:
a uniform spread has .75, a normal one .64."""


@dataclass(frozen=True)
class Maps(Printed):
    """Maps of N records.

    Args:
        path: The folder.
        kind: "queries", "segments", "change" or "classes".
        layers: What a pixel can be.
        field: Of the encoder.
        rows: Of the table, a dict a record: `key`, the share of each layer; changes sorted by it.
        threshold: Above which a pixel is changed, None where the largest layer counts.
        between: Share of the variance that is between the two groups of that threshold.
        scores: Against rasters of labels; () without any.
        label: The field of these.
        labelled: Records with a raster.
        unscored: Share of their pixels whose class no layer stands for.
        held_out: Whether scores are of the records that the run was not trained on; False where it
            was trained on all of them, None where it was on none.
        left_out: Records without the pictures.
        unreadable: Keys of records whose picture could not be read.
    """

    path: Path
    kind: str
    layers: Sequence[str]
    field: str
    rows: Sequence[Mapping[str, Any]]
    threshold: float | None = None
    between: float | None = None
    scores: Sequence[Score] = ()
    label: str = ""
    labelled: int = 0
    unscored: float = 0.0
    held_out: bool | None = None
    left_out: int = 0
    unreadable: Sequence[str] = ()

    @property
    def sentence(self) -> str:
        """What was mapped, and whether to believe it."""
        what = {
            "queries": f"where {len(self.layers)} queries are",
            "segments": f"{len(self.layers)} segments",
            "change": "change",
            "classes": f"{len(self.layers)} classes",
        }[self.kind]
        parts = [f"{what} in {self.field} of {len(self.rows):,} records"]
        if self.left_out:
            parts.append(f"{self.left_out:,} records without a picture are left out")
        if self.unreadable:
            parts.append(f"{len(self.unreadable):,} pictures could not be read")
        if self.threshold is not None:
            parts.append(self._threshold())
        return "; ".join([*parts, *self._beside()])

    @property
    def title(self) -> str:
        """What was mapped, in a few words."""
        return self.sentence.partition(";")[0]

    def _threshold(self) -> str:
        text = f"a pixel counts above {self.threshold:.3g}"
        if self.between is None:
            return text
        text += f", which leaves {self.between:.0%} of the variance between the two groups"
        if self.between < CLEAR:
            text += " (little: there may be nothing to divide, and a threshold divides anything)"
        return text

    def _beside(self) -> list[str]:
        """For each metric that counts, what simple pixels reach, and whether that is as good."""
        parts = []
        for score in self.scores:
            rivals = {c: v for c, v in score.values.items() if c.startswith("pixels")}
            best = max(rivals, key=lambda c: rivals[c])
            text = f"{score.metric} with {self.label} {score.values[THIS]:.3f} ({best} "
            text += f"{rivals[best]:.3f}, chance {score.values['chance']:.3f})"
            low, high = score.differences[best]
            if high < 0:
                text += ": pixels alone are better"
            elif low <= 0:
                text += ": no better than pixels alone, within the error"
            parts.append(text)
        if self.held_out is not None:
            parts.append(
                f"measured on the {self.labelled:,} records that the run was not trained on"
                if self.held_out
                else f"the run was trained on all {self.labelled:,} of them, so that this flatters"
            )
        if self.unscored >= 0.005:
            parts.append(
                f"of {self.label} {self.unscored:.0%} of the pixels do not count, as nothing "
                "stands for their class"
            )
        return parts

    def table(self) -> RenderableType:
        """Tables for a terminal."""
        shown = Table(title=escape(f"{self.sentence}."), title_justify="left")
        names = list(self.rows[0]) if self.rows else []
        names = names[:SHOWN]
        for name in names:
            number = self.rows and isinstance(self.rows[0][name], float)
            shown.add_column(escape(name), justify="right" if number else "left")
        for row in self.rows[:SHOWN]:
            cells = [row[name] for name in names]
            shown.add_row(*(f"{c:.3f}" if isinstance(c, float) else escape(str(c)) for c in cells))
        if len(self.rows) > SHOWN:
            shown.add_row(f"… {len(self.rows) - SHOWN:,} more", *[""] * (len(names) - 1))
        return Group(shown, self._score_table()) if self.scores else shown

    def _score_table(self) -> Table:
        table = Table(
            title=f"{self.labelled:,} records with {escape(self.label)}, 95 % over records",
            title_justify="left",
        )
        table.add_column("metric")
        for name in self.scores[0].values:
            table.add_column(escape(name), justify="right")
        for score in self.scores:
            cells = []
            for name, value in score.values.items():
                interval = score.intervals.get(name)
                around = "" if interval is None else f" ({interval[0]:.3f} … {interval[1]:.3f})"
                cells.append(f"{value:.3f}{around}")
            table.add_row(score.metric, *cells)
        return table

    def summary(self) -> dict[str, Any]:
        """What stands in maps.json beside the settings."""
        return {
            "sentence": self.sentence,
            "kind": self.kind,
            "layers": list(self.layers),
            "records": len(self.rows),
            "left_out": self.left_out,
            "unreadable": list(self.unreadable),
            "threshold": self.threshold,
            "between": self.between,
            "scores": [
                {
                    "metric": s.metric,
                    "values": dict(s.values),
                    "intervals": {k: list(v) for k, v in s.intervals.items()},
                    "differences": {k: list(v) for k, v in s.differences.items()},
                }
                for s in self.scores
            ],
            "label": self.label,
            "labelled": self.labelled,
            "unscored": self.unscored,
            "held_out": self.held_out,
        }
