"""What a choice of records gives: which, why, and how they look."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from amodal.console import Printed
from amodal.core import AmodalError
from amodal.core.whole_file import whole_file
from amodal.data import Dataset, pack
from amodal.data.subset import FILE, write_subset
from amodal.selection.chunks import Chunks, Rows
from amodal.selection.groups import Groups
from amodal.selection.pictures import draw_examples, draw_scores
from amodal.selection.pool import Scores

MAX_ROWS = 12
"""Groups in a table."""
OURS = {
    FILE,
    "keys.txt",
    "scores.parquet",
    "selection.json",
    "scores.png",
    "examples.png",
    ".scores",
}
OURS |= {"packed"}


@dataclass(frozen=True, kw_only=True)
class Selection(Printed):
    """A choice of records.

    Args:
        dataset: The whole data.
        source: What opens it a second time; "" for data in memory.
        rows: (N,) numbers of the records that were chosen from.
        others: (M,) numbers of the records of other parts, which all stay.
        selected: (N,) bool.
        scores: Of the N records.
        by: The rule.
        cut: The score of the last one that is selected.
        part: Of the split, that was chosen from.
        lowest: Whether low scores are the good ones.
        groups: What became of the groups of a label.
        correlated: What number the score goes with, and Spearman's correlation.
        settings: Of the choice, for selection.json.
        chunks: What is stored of an interrupted choice.
    """

    dataset: Dataset
    source: str
    rows: Rows
    others: Rows
    selected: np.ndarray
    scores: Scores
    by: str
    cut: float
    part: str
    lowest: bool = False
    groups: Groups | None = None
    correlated: tuple[str, float] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    chunks: Chunks = field(default_factory=Chunks)

    @property
    def keys(self) -> list[str]:
        """Of all records that stay, in the order of the data."""
        stay = np.sort(np.concatenate([self.rows[self.selected], self.others]))
        return [self.dataset.keys[i] for i in stay.tolist()]

    @property
    def chosen(self) -> Dataset:
        """The records that stay."""
        stay = np.sort(np.concatenate([self.rows[self.selected], self.others]))
        return self.dataset.subset(stay.tolist())

    @property
    def sentence(self) -> str:
        """What was dropped."""
        total, stay = len(self.rows), int(self.selected.sum())
        of = "" if self.part == "all" else f"{self.part} "
        parts = [
            f"{stay:,} of {total:,} {of}records of {self.dataset.name} stay "
            f"({stay / total:.0%}), {total - stay:,} are dropped by {self.by}: "
            f"{self.scores.meaning}, {'at most' if self.lowest else 'from'} {self.cut:.4g}"
        ]
        parts += [
            f"{int(mask.sum()):,} {reason}"
            for reason, mask in self.scores.reasons.items()
            if mask.any()
        ]
        parts += [*self._unscored(), *self.scores.notes, *self._groups()]
        if self.correlated is not None:
            name, correlation = self.correlated
            parts.append(
                f"the score goes with {name} (Spearman {correlation:+.2f}): compare --by {name}"
            )
        if len(self.others):
            parts.append(f"all {len(self.others):,} records of the other parts stay")
        return "; ".join(parts)

    def _unscored(self) -> list[str]:
        without = np.isnan(self.scores.score)
        if not without.any():
            return []
        stays = "stay" if self.selected[without].all() else "are dropped"
        return [f"{int(without.sum()):,} lack {self.scores.lacking} and {stays}"]

    def _groups(self) -> list[str]:
        if self.groups is None or not self.groups.differ:
            return []
        counts = [*self.groups.counts.items()]
        (worst, (n, stay)), (best, (m, more)) = counts[0], counts[-1]
        return [
            f"by {self.groups.label}, most are dropped of {worst} ({1 - stay / n:.0%}) and fewest "
            f"of {best} ({1 - more / m:.0%})"
        ]

    def table(self) -> Group:
        """For a terminal: the sentence, and the groups."""
        sentence = escape(f"{self.sentence}.")
        if self.groups is None:
            return Group(sentence)
        shown = Table()
        for heading in (self.groups.label, "records", "stay", "share"):
            shown.add_column(heading, justify="left" if heading == self.groups.label else "right")
        counts = [*self.groups.counts.items()]
        half = MAX_ROWS // 2
        cells = counts if len(counts) <= MAX_ROWS else [*counts[:half], *counts[-half:]]
        for value, (n, stay) in cells:
            shown.add_row(escape(value), f"{n:,}", f"{stay:,}", f"{stay / n:.0%}")
        return Group(sentence, shown)

    def rows_table(self) -> pa.Table:
        """key, score, selected, reason, and what else the rule has, of each of the N records."""
        reasons = [
            "; ".join(r for r, mask in self.scores.reasons.items() if mask[i]) or None
            for i in range(len(self.rows))
        ]
        columns: dict[str, Any] = {
            "key": pa.array([self.dataset.keys[i] for i in self.rows.tolist()], pa.string()),
            "score": pa.array(self.scores.score, pa.float64(), from_pandas=True),
            "selected": pa.array(self.selected),
        }
        if self.scores.reasons:
            columns["reason"] = pa.array(reasons, pa.string())
        for name, values in self.scores.columns.items():
            numbers = values.dtype.kind == "f"
            columns[name] = pa.array(values, from_pandas=True) if numbers else values.tolist()
        return pa.table(columns)

    def save(self, out: str | Path, *, copy: bool = False, field: str | None = None) -> list[Path]:
        """Write the choice to a folder, which is data for every verb, and pictures of it.

        Args:
            out: The folder.
            copy: Copy the records that stay into OUT/packed.
            field: That the picture of examples shows.

        Returns:
            What was written.

        Raises:
            AmodalError: For data in memory, and if it cannot be written.
        """
        out = Path(out)
        check_folder(out, self.source)
        written = [write_subset(out, self.source, self.keys)]
        try:
            with whole_file(out / "scores.parquet") as draft:
                pq.write_table(self.rows_table(), draft)
            about = {"by": self.by, "sentence": self.sentence, "cut": self.cut}
            with whole_file(out / "selection.json") as draft:
                draft.write_text(
                    json.dumps({**about, **self.settings}, indent=1, default=str), encoding="utf-8"
                )
        except OSError as error:
            raise AmodalError(f"could not write {out}: {error.strerror or error}") from error
        written += [out / "scores.parquet", out / "selection.json"]
        written.append(draw_scores(self.scores, self.selected, self.cut, out / "scores.png"))
        written.append(
            draw_examples(
                self.dataset, self.rows, self.scores, self.selected, out / "examples.png",
                lowest=self.lowest, field=field,
            )
        )  # fmt: skip
        if copy:
            written.append(pack(self.chosen, out / "packed"))
        self.chunks.clear()
        return written


def check_folder(out: Path, source: str) -> None:
    """Whether a choice of this data can be written to a folder.

    Raises:
        AmodalError: For data in memory, and a folder with other things in it.
    """
    if not source:
        raise AmodalError(
            "these records are in memory, and a list of keys would lead nowhere; use "
            "`Selection.chosen`, or write the data to a file first"
        )
    if out.is_file() or out.resolve() == Path(source).resolve():
        raise AmodalError(
            f"{out} is {'a file' if out.is_file() else 'the data'}; give a new folder"
        )
    others = sorted({p.name for p in out.iterdir()} - OURS) if out.is_dir() else []
    if others:
        raise AmodalError(f"{out} has other things in it, such as {others[0]}; give a new folder")
