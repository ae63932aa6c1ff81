"""What `init` found, for a person: fields, labels, what was left out, the split."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from amodal.data.dataset import Dataset
from amodal.data.infer_schema import Verdict, is_group_name
from amodal.data.measure import samples
from amodal.data.splits import PARTS
from amodal.modalities import BadValue

LOOKED_AT = 50
"""Values of a field that are decoded for the report."""
FEW = 20
"""Records to train on, fewer than which show only that everything runs."""


@dataclass(frozen=True)
class FieldFound:
    """missing: share of records without the field; unreadable: share of the `looked` values that
    could not be decoded."""

    name: str
    modality: str
    looks: str
    missing: float
    unreadable: float
    reason: str
    example: str


@dataclass(frozen=True)
class LabelFound:
    name: str
    kind: str
    values: str
    missing: float


@dataclass(frozen=True)
class Report:
    """path: the dataset.toml that was written; left_out: column or ending -> why; parts: records in
    each part of the split."""

    path: Path
    dataset: Dataset
    fields: list[FieldFound]
    labels: list[LabelFound]
    left_out: dict[str, str]
    parts: dict[str, int]

    @staticmethod
    def of(dataset: Dataset, verdicts: Mapping[str, Verdict], path: Path) -> Report:
        left = {
            column: verdict.why for column, verdict in verdicts.items() if verdict.role == "out"
        }
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
            "what it looks like",
            "missing",
            "example",
            title="fields: what the encoder sees",
        )
        for f in self.fields:
            example = Text(f.example if f.unreadable < 1 else f.reason)
            if f.unreadable:
                example.append(f"\n{f.unreadable:.0%} unreadable: {f.reason}", "red")
            table.add_row(f.name, f.modality, Text(f.looks), _share(f.missing), example)
        yield table
        if self.labels:
            table = Table("label", "kind", "values", "missing", title="labels: for evaluation only")
            for label in self.labels:
                table.add_row(label.name, label.kind, Text(label.values), _share(label.missing))
            yield table
        else:
            yield Text(
                "no labels found: retrieval and missing-field evaluations work without; declare others as [labels.NAME]"
            )
        if self.left_out:
            yield Text(
                "left out: " + "; ".join(f"{what}: {why}" for what, why in self.left_out.items()),
                "dim",
            )
        yield from (Text(warning, "yellow") for warning in self.warnings())
        yield Text(f"written to {self.path}: look through it and edit what was guessed wrong")

    def warnings(self) -> list[str]:
        """What would make a score wrong, and what to do."""
        found = []
        if groups := groups_of(self.dataset):
            lines = " or ".join(f'split_by = "{name}"' for name in groups)
            found.append(
                f"records of one {groups[0]} are in train and in test alike, so scores will look better than they are "
                f"for a new {groups[0]}: uncomment {lines} in {self.path.name} to keep them together"
            )
        if self.parts["train"] < FEW:
            found.append(
                f"only {self.parts['train']} records to train on: enough to see that everything runs, not for a score; "
                "with so few, a record can change its part of the split when data is added"
            )
        return found

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=140)
        console.print(self)
        return console.file.getvalue()


def groups_of(dataset: Dataset) -> list[str]:
    """Labels that say which records belong together (a patient, a site), where nothing keeps them
    in one part of the split."""
    divided = not dataset.schema.split and not dataset.schema.split_by
    return [name for name in dataset.labels if divided and is_group_name(name)]


def _field(dataset: Dataset, name: str) -> FieldFound:
    modality, raws = dataset.fields[name], samples(dataset, name, LOOKED_AT)
    values, reasons = [], []
    for raw in raws:
        try:
            values.append(modality.decode(raw))
        except BadValue as error:
            reasons.append(str(error))
    present = dataset.present(name)
    return FieldFound(
        name,
        modality.kind,
        modality.summarize(raws, values),
        1 - float(np.mean(present)),
        len(reasons) / len(raws) if raws else 0.0,
        reasons[0] if reasons else "",
        modality.describe(values[0]) if values else "none has a value" if not present.any() else "",
    )


def _label(dataset: Dataset, name: str) -> LabelFound:
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
    return LabelFound(name, label.kind, shown, 1 - len(known) / len(values))


def _share(missing: float) -> Text:
    return Text(
        f"{missing:.0%}" if missing in (0, 1) or 0.005 < missing < 0.995 else f"{missing:.1%}",
        "red" if missing == 1 else "",
    )
