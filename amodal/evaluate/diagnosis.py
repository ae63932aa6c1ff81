"""What `amodal diagnose` found: its numbers, the sentence of what stands out, tables and file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from amodal.console import Printed
from amodal.core import AmodalError
from amodal.core.whole_file import whole_file
from amodal.evaluate.class_outliers import ClassOutlier, outlier_tables
from amodal.evaluate.result import json_values
from amodal.inference.common_space import ALIKE

K = 10
"""Nearest records that are compared."""
FEW_DIMENSIONS = 0.1
"""Share of the dimensions in use, below which they have collapsed for most purposes."""
FEW_EXPERTS = 0.125
"""Share of the experts; the router has collapsed for a field that uses no more."""
REACH = 0.8
"""Share of a field's tokens that reach an expert, below which it is worth a word."""
MEANING: Mapping[str, str] = {
    "layer": "of the first backbone, counted from 1, most like `other layer` of the second one",
    "by the last": "nearest records that the last layers agree on",
    "rank": "dimensions in use (effective rank of centred vectors), of `width`",
    "std": "1 where vectors are spread evenly over the sphere, 0 where they have collapsed",
    "least std": "the same of the least dimension",
    "intrinsic": "dimension of the surface on which neighbours lie (TwoNN)",
    "anisotropy": "share of the variance along one line; 1 / width is a ball",
    "RankMe": "dimensions in use, not centred; higher is often better for probes",
    "alpha": "decay of the eigenvalues; near 1 is often better for probes",
    "alignment": "squared distance of the fields of a record; lower is nearer",
    "uniformity source": "log energy; lower is more even",
    "uniformity target": "log energy; lower is more even",
    "gap": "distance of the means of two fields; 0 is one region",
    "shared": f"of {K} nearest records, those that both fields agree on",
    "matched": "volume of a record's own fields; lower is more alike",
    "mixed": "volume of fields of different records",
    "reach": "share of the tokens that an expert takes; the others go on by the residual alone",
    "used": "experts that take a hundredth of them or more",
    "effective": "experts by the entropy of the mean probability; the losses of limoe ask for some",
    "sure": "the highest router probability, mean",
    "share": "of all tokens that pass; even is one over the number of experts",
    "auroc": "how often own fields are more alike than mixed ones; .5 by chance",
}


@dataclass(frozen=True)
class Diagnosis(Printed):
    """What the vectors of a run look like.

    Args:
        name: Of the data.
        rows: diagnosis, source, target (of pairs), metric, value, and untrained: the same before
            training, None where it was not asked for.
        odd: Keys of records whose fields disagree most, and by how much: one minus their cosine,
            less the mean of that over records. {} where fields have no common space.
        records: How many were read.
        outliers: Records unlike the others of their class, where a label was named; `by_untrained`
            says which of them the encoder before training names too.
    """

    name: str
    rows: list[dict[str, Any]]
    odd: Mapping[str, float] = field(default_factory=dict)
    records: int = 0
    outliers: Sequence[ClassOutlier] = ()
    by_untrained: frozenset[str] = frozenset()

    @property
    def sentence(self) -> str:
        """What stands out."""
        parts = []
        width = {r["source"]: r["value"] for r in self.rows if r["metric"] == "width"}
        # so few records span no more
        most = {of: min(wide, self.records - 1) for of, wide in width.items()}
        experts = {r["source"]: r["value"] for r in self.rows if r["metric"] == "experts"}
        for row in self.rows:
            of, value = row["source"], row["value"]
            if row["metric"] == "rank" and value < FEW_DIMENSIONS * most.get(of, 0.0):
                parts.append(f"{of} uses {value:.1f} of {width[of]:.0f} dimensions")
            if row["metric"] == "auroc" and value < ALIKE:
                parts.append(
                    "the fields of a record are hardly more alike than those of different ones "
                    f"({value:.2f}, by chance .5)"
                )
            if row["metric"] == "used" and value <= FEW_EXPERTS * experts[of]:
                parts.append(f"tokens of {of} go to {value:.0f} of {experts[of]:.0f} experts")
            if row["metric"] == "reach" and value < REACH:
                parts.append(f"{1 - value:.0%} of the tokens of {of} reach no expert")
            if row["metric"] == "gap" and value > 1.0:
                parts.append(f"{of} and {row['target']} lie apart (gap {value:.2f} of at most 2)")
        return "; ".join(parts) or "nothing stands out"

    def table(self) -> Group:
        """Tables for a terminal, one for each diagnosis."""
        names = dict.fromkeys(row["diagnosis"] for row in self.rows)
        parts: list[RenderableType] = [
            escape(f"{self.name}, {self.records:,} records: {self.sentence}.")
        ]
        parts += [self._table(name) for name in names]
        return Group(
            *parts,
            *filter(None, [self._odd_records()]),
            *outlier_tables(self.outliers, self.by_untrained),
        )

    def _table(self, diagnosis: str) -> Table:
        rows = [row for row in self.rows if row["diagnosis"] == diagnosis]
        metrics = [*dict.fromkeys(row["metric"] for row in rows)]
        legend = [f"{metric}: {MEANING[metric]}" for metric in metrics if metric in MEANING]
        compared = any(row["untrained"] is not None for row in rows)
        shown = Table(
            title=f"{diagnosis}{' (in brackets: untrained)' if compared else ''}",
            caption="\n".join(legend),
            title_justify="left",
            caption_justify="left",
        )
        for heading in ("", *metrics):
            shown.add_column(heading, justify="right" if heading else "left")
        cells: dict[str, dict[str, str]] = {}
        for row in rows:
            of = row["source"] + (f" ~ {row['target']}" if row["target"] else "")
            same = row["metric"] not in MEANING  # a count, or a width
            before = "" if same or row["untrained"] is None else f" ({_number(row['untrained'])})"
            cells.setdefault(of, {})[row["metric"]] = f"{_number(row['value'])}{before}"
        for of, values in cells.items():
            shown.add_row(escape(of), *(values.get(metric, "") for metric in metrics))
        return shown

    def _odd_records(self) -> str:
        if not self.odd:
            return ""
        named = ", ".join(f"{escape(key)} ({value:+.2f})" for key, value in self.odd.items())
        return f"Records whose fields disagree most (look at them: mismatched pairs?): {named}"

    def save(self, path: str | Path) -> Path:
        """Write all numbers as JSON.

        Returns:
            The path.

        Raises:
            AmodalError: If it cannot be written.
        """
        path = Path(path)
        written = {"data": self.name, "records": self.records, "sentence": self.sentence}
        written |= {"rows": self.rows, "odd": dict(self.odd)}
        written |= {"outliers": [asdict(outlier) for outlier in self.outliers]}
        text = json.dumps(json_values(written), indent=1) + "\n"
        try:
            with whole_file(path) as draft:
                draft.write_text(text, encoding="utf-8")
        except OSError as error:
            raise AmodalError(f"could not write {path}: {error.strerror or error}") from error
        return path


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value.is_integer() else f"{value:.3g}"
