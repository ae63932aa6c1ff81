"""The report of `init`: fields, labels, what was left out, and the split."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from amodal.data.dataset import Dataset
from amodal.data.infer_schema import ColumnGuess, is_group_name
from amodal.data.measure import samples
from amodal.data.outliers import outlier
from amodal.data.remote import AnyPath
from amodal.data.splits import PARTS
from amodal.data.strays import rare_field
from amodal.modalities import BadValue

REPORT_SAMPLES = 50
"""Values of a field that are decoded for the report."""
MIN_TRAIN_RECORDS = 20
"""With fewer training records one can see only that everything runs."""


@dataclass(frozen=True)
class FieldReport:
    """What the report says about a field.

    Attributes:
        name: of the field.
        modality: its kind.
        summary: what it holds, in a few words.
        missing: share of records without it.
        unreadable: share of the REPORT_SAMPLES values that could not be decoded.
        reason: why the first of these could not, "" if all could.
        example: one value, in a line.
        outlier: a number beside which all others are the same, in a sentence; "" for none.
    """

    name: str
    modality: str
    summary: str
    missing: float
    unreadable: float
    reason: str
    example: str
    outlier: str = ""


@dataclass(frozen=True)
class LabelReport:
    """What the report says about a label.

    Attributes:
        name: of the label.
        kind: "category" or "number".
        values: the range of numbers, or the most frequent classes.
        missing: share of records without it.
    """

    name: str
    kind: str
    values: str
    missing: float


@dataclass(frozen=True)
class Report:
    """What `init` found in data that no dataset.toml described. `print` shows it.

    Attributes:
        path: the dataset.toml that was written.
        dataset: as it describes it.
        fields: what is known about each field.
        labels: what is known about each label.
        left_out: column or ending -> why it is neither.
        parts: records in each part of the split.
    """

    path: AnyPath
    dataset: Dataset
    fields: list[FieldReport]
    labels: list[LabelReport]
    left_out: dict[str, str]
    parts: dict[str, int]

    @staticmethod
    def of(dataset: Dataset, guesses: Mapping[str, ColumnGuess], path: AnyPath) -> Report:
        """The report on a dataset.

        Args:
            dataset: to report on.
            guesses: column -> what it was taken for.
            path: the dataset.toml that was written.
        """
        left = {column: guess.reason for column, guess in guesses.items() if guess.role == "out"}
        left |= {
            what: f"{n} files" if what.startswith("*") else f"{n} times"
            for what, n in dataset.reader.ignored.most_common(12)
        }
        parts = {part: len(dataset.split(part)) for part in PARTS}
        fields = [_field(dataset, name) for name in dataset.fields]
        return Report(
            path, dataset, fields, [_label(dataset, name) for name in dataset.labels], left, parts
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = ", ".join(f"{n:,} {part}" for part, n in self.parts.items())
        yield Text(
            f"{self.dataset.name}: {len(self.dataset):,} records ({parts})",
            "bold",
        )
        table = Table(
            "field",
            "modality",
            "summary",
            "missing",
            "example",
            title="fields: what the encoder sees",
        )
        for f in self.fields:
            example = Text(f.example if f.unreadable < 1 else f.reason)
            if f.unreadable:
                example.append(f"\n{f.unreadable:.0%} unreadable: {f.reason}", "red")
            table.add_row(f.name, f.modality, Text(f.summary), _share(f.missing), example)
        yield table
        if self.labels:
            table = Table("label", "kind", "values", "missing", title="labels: for evaluation only")
            for label in self.labels:
                table.add_row(label.name, label.kind, Text(label.values), _share(label.missing))
            yield table
        else:
            yield Text(
                "no labels found: retrieval and missing-field evaluations work without; "
                "declare others as [labels.NAME]"
            )
        if self.left_out:
            yield Text(
                "left out: " + "; ".join(f"{what}: {why}" for what, why in self.left_out.items()),
                "dim",
            )
        yield from (Text(note, "dim") for note in self.notes())
        yield from (Text(warning, "yellow") for warning in self.warnings())
        yield Text(f"written to {self.path}: look through it and edit what was guessed wrong")

    def notes(self) -> list[str]:
        """How the data was read, where it could have been read otherwise."""
        notes = list(self.dataset.reader.notes)
        if key := self.dataset.schema.key:
            notes.append(f"records are called by the column {key!r}")
        for name, modality in self.dataset.fields.items():
            if doubt := modality.doubt(samples(self.dataset, name, 1)):
                notes.append(f"{name}: {doubt} in {self.path.name}")
        return notes

    def warnings(self) -> list[str]:
        """What would make a score wrong, and what to do about it."""
        warnings = [field.outlier for field in self.fields if field.outlier]
        warnings += [
            rare for name in self.dataset.fields if (rare := rare_field(self.dataset, name))
        ]
        if groups := groups_of(self.dataset):
            lines = " or ".join(f'split_by = "{name}"' for name in groups)
            warnings.append(
                f"records of one {groups[0]} are in train and in test alike, so scores will look "
                f"better than they are for a new {groups[0]}: uncomment {lines} in "
                f"{self.path.name} to keep them together"
            )
        if self.parts["train"] < MIN_TRAIN_RECORDS:
            warnings.append(
                f"only {self.parts['train']} records to train on: enough to see that everything "
                "runs, not for a score; with so few, a record can change its part of the split "
                "when data is added"
            )
        return warnings

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=140, force_jupyter=False).print(self)
        return text.getvalue()


def groups_of(dataset: Dataset) -> list[str]:
    """The labels that say which records belong together (a patient, a site), unless `split` or
    `split_by` already decides about the parts."""
    divided = not dataset.schema.split and not dataset.schema.split_by
    return [name for name in dataset.labels if divided and is_group_name(name)]


def _field(dataset: Dataset, name: str) -> FieldReport:
    modality, raws = dataset.fields[name], samples(dataset, name, REPORT_SAMPLES)
    values, reasons = [], []
    for raw in raws:
        try:
            values.append(modality.decode_finite(raw))
        except BadValue as error:
            reasons.append(str(error))
    present = dataset.present(name)
    example = "" if present.any() else "none has a value"
    return FieldReport(
        name=name,
        modality=modality.kind,
        summary=modality.summarize(raws, values),
        missing=1 - float(np.mean(present)),
        unreadable=len(reasons) / len(raws) if raws else 0.0,
        reason=reasons[0] if reasons else "",
        example=modality.describe(values[0]) if values else example,
        outlier=outlier(dataset, name, values),
    )


def _label(dataset: Dataset, name: str) -> LabelReport:
    label, values = dataset.labels[name], dataset.label(name)
    if label.kind == "number":
        known = values[~np.isnan(values)]
        shown = f"{known.min():g} … {known.max():g} {label.unit}".strip() if len(known) else ""
    else:
        known = [v for v in values if v is not None]
        common = Counter(known).most_common(3)
        shown = (
            f"{len(set(known))} classes: "
            + ", ".join(f"{v} ({n:,})" for v, n in common)
            + (", …" if len(set(known)) > 3 else "")
        )
    return LabelReport(name, label.kind, shown, 1 - len(known) / len(values))


def _share(missing: float) -> Text:
    return Text(
        f"{missing:.0%}" if missing in (0, 1) or 0.005 < missing < 0.995 else f"{missing:.1%}",
        "red" if missing == 1 else "",
    )
