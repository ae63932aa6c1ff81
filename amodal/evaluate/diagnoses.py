"""`amodal diagnose`: what the vectors of a run look like, without any label.

The functions are those of `amodal.diagnose`, and each number stands beside that of the same encoder
before training.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from amodal.console import Printed
from amodal.core import AmodalError, unknown
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.whole_file import whole_file
from amodal.data import Dataset
from amodal.diagnose.dimension import dimension
from amodal.diagnose.disagreement import disagreement
from amodal.diagnose.geometry import geometry
from amodal.diagnose.label_free import label_free_scores
from amodal.diagnose.neighbours import mutual_knn
from amodal.diagnose.spectrum import spectrum
from amodal.diagnose.volume import volume_of
from amodal.evaluate.class_outliers import ClassOutlier, class_outliers, outlier_tables
from amodal.evaluate.layer_agreement import agreement_of_layers
from amodal.evaluate.result import json_values
from amodal.inference.common_space import ALIKE
from amodal.inference.embed import Embedded, embed_records
from amodal.progress import Bar

if TYPE_CHECKING:
    from amodal.model import Model

MAX_RECORDS = 5000
"""All pairs of records are compared."""
K = 10
ODD = 10
"""Records whose fields disagree most, that are named."""
FEW_DIMENSIONS = 0.1
"""Share of the dimensions in use, below which they have collapsed for most purposes."""
DISTINCT = 0.9
"""Share of vectors that differ, below which neighbours are a matter of ties."""
CLEARLY = 2.0
"""Standard deviations above the mean, from which a record is named as odd."""

Row = dict[str, str | float]


def _spectrum(z: Embedded) -> list[Row]:
    return spectrum(z.features)


def _dimension(z: Embedded) -> list[Row]:
    return dimension(z.features)


def _label_free(z: Embedded) -> list[Row]:
    return [
        {"source": source, "n": len(column), **label_free_scores(vectors_of(column).float())}
        for source, column in z.features.columns.items()
        if len(column) > 1
    ]


def _geometry(z: Embedded) -> list[Row]:
    # where signs mean nothing, distances do not either
    return geometry(z.aligned) if _one_space(z) and not z.abs_cosine else []


def _volume(z: Embedded) -> list[Row]:
    """Of all fields together; there are too many subsets to read."""
    row = volume_of(z.aligned, z.aligned.sources) if _one_space(z) else None
    return [] if row is None else [row]


def _neighbours(z: Embedded) -> list[Row]:
    rows: list[Row] = []
    for a, b in itertools.combinations(z.features.sources, 2):
        index, (x, y) = z.features.complete([a, b])
        if len(index) > K and _differ(x) and _differ(y):
            shared = mutual_knn(x.float(), y.float(), k=K)
            by_chance = K / (len(index) - 1)
            rows.append(
                {"source": a, "target": b, "n": len(index), "shared": shared, "chance": by_chance}
            )
    return rows


def _differ(x_ND: torch.Tensor) -> bool:
    """Whether most vectors are different ones: equal ones have no nearest."""
    return len(torch.unique(x_ND, dim=0)) > DISTINCT * len(x_ND)


DIAGNOSES: Mapping[str, Callable[[Embedded], list[Row]]] = {
    "spectrum": _spectrum,
    "dimension": _dimension,
    "label_free": _label_free,
    "geometry": _geometry,
    "neighbours": _neighbours,
    "volume": _volume,
}
"""Name -> rows of embedded records: what they are of (texts), and numbers."""
LAYERS = "layers"
"""Of backbones, by forward passes of its own: run where it is named."""
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
        for row in self.rows:
            of, value = row["source"], row["value"]
            if row["metric"] == "rank" and value < FEW_DIMENSIONS * most.get(of, 0.0):
                parts.append(f"{of} uses {value:.1f} of {width[of]:.0f} dimensions")
            if row["metric"] == "auroc" and value < ALIKE:
                parts.append(
                    "the fields of a record are hardly more alike than those of different ones "
                    f"({value:.2f}, by chance .5)"
                )
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


def diagnose(
    model: Model,
    data: Any,
    *,
    only: Sequence[str] = (),
    label: str | None = None,
    part: str | None = None,
    records: int = MAX_RECORDS,
    untrained: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Diagnosis:
    """Measure what vectors look like.

    Args:
        model: A run.
        data: Whatever `amodal.open` takes.
        only: Names of `DIAGNOSES`, all unless set; or "layers", of pretrained backbones.
        label: Also name records that are unlike the others of their class.
        part: "train", "valid" or "test"; all records unless set.
        records: How many at most, drawn at random; all pairs of them are compared.
        untrained: Measure the same encoder before training beside it.
        seed: Of the choice of records.
        progress: Show a bar.

    Raises:
        AmodalError: For an unknown name, and for fewer than three records.
    """
    for name in only:
        if name not in (*DIAGNOSES, LAYERS):
            raise unknown("diagnosis", name, (*DIAGNOSES, LAYERS))
    if seed < 0 or records < 3:
        raise AmodalError(f"seed is at least 0 and records at least 3, not {seed} and {records}")
    dataset = model.with_features(model.read(data))
    if label is not None:
        dataset.label(label, required=True)  # an unknown one is an error before anything is read
    rows = np.asarray(dataset.split(part) if part else np.arange(len(dataset)))
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:records])
    if len(rows) < 3:
        raise AmodalError(f"a diagnosis takes three records at least, and here are {len(rows)}")
    if list(only) == [LAYERS]:
        with Bar("layers", len(rows), shown=progress) as bar:
            found = agreement_of_layers(
                model, dataset, rows.tolist(), lambda count: bar.step("records", by=count)
            )
        return Diagnosis(dataset.name, _flat(LAYERS, found), {}, len(rows))
    if LAYERS in only:
        raise AmodalError("layers are compared without other diagnoses: only layers")
    models = [model, model.untrained()] if untrained else [model]
    with Bar("embed", len(rows) * len(models), shown=progress) as bar:
        embedded = [_embedded(one, dataset, rows, bar) for one in models]
    for source, column in embedded[0].features.columns.items():
        if not torch.isfinite(vectors_of(column)).all():
            raise AmodalError(f"vectors of {source} are not finite: the run has diverged")
    names = tuple(only) or tuple(DIAGNOSES)
    trained, *before = (_measured(one, names) for one in embedded)
    numbers = [
        {
            "diagnosis": name,
            "source": source,
            "target": target,
            "metric": metric,
            "value": value,
            "untrained": before[0].get((name, source, target, metric)) if before else None,
        }
        for (name, source, target, metric), value in trained.items()
    ]
    outliers: list[ClassOutlier] = []
    by_untrained: frozenset[str] = frozenset()
    if label is not None:
        outliers = class_outliers(embedded[0], label)
        if untrained:
            by_untrained = frozenset(o.key for o in class_outliers(embedded[1], label))
    return Diagnosis(
        dataset.name,
        numbers,
        _odd(embedded[0]),
        len(rows),
        outliers=outliers,
        by_untrained=by_untrained,
    )


def _embedded(model: Model, dataset: Dataset, rows: np.ndarray, bar: Bar) -> Embedded:
    return embed_records(
        model.encoder,
        dataset,
        rows,
        device=model.device,
        progress=lambda count: bar.step("records", by=count),
    )


def _flat(diagnosis: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row of a diagnosis for each number, without an untrained encoder."""
    return [
        {
            "diagnosis": diagnosis,
            "source": row["source"],
            "target": row["target"],
            "metric": metric,
            "value": float(value),
            "untrained": None,
        }
        for row in rows
        for metric, value in row.items()
        if not isinstance(value, str)
    ]


def _measured(z: Embedded, names: Sequence[str]) -> dict[tuple[str, str, str, str], float]:
    """(diagnosis, source, target, metric) -> value."""
    values: dict[tuple[str, str, str, str], float] = {}
    for name in names:
        for row in DIAGNOSES[name](z):
            source = str(row.get("source", row.get("sources", "")))
            target = str(row.get("target", ""))
            values |= {
                (name, source, target, metric): float(value)
                for metric, value in row.items()
                if not isinstance(value, str)
            }
    return values


def _one_space(z: Embedded) -> bool:
    """Whether the vectors of all fields can be compared: they have one width."""
    widths = {vectors_of(z.aligned[source]).shape[1] for source in z.aligned.sources}
    return len(z.aligned.sources) > 1 and len(widths) == 1


def _odd(z: Embedded) -> dict[str, float]:
    """Records whose fields disagree most, among those that have all fields."""
    if z.abs_cosine or not any(float(row["auroc"]) >= ALIKE for row in _volume(z)):
        return {}
    complete, _ = z.aligned.complete(z.aligned.sources)
    column = disagreement(z.aligned)
    whole = torch.isin(column.rows, complete)
    values, rows = vectors_of(column)[whole], column.rows[whole]
    if len(values) < 3:
        return {}
    order = values.argsort(descending=True, stable=True)[:ODD]
    mean, least = float(values.mean()), CLEARLY * float(values.std())
    return {
        z.keys[int(rows[i])]: float(values[i]) - mean for i in order if values[i] - mean > least
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value.is_integer() else f"{value:.3g}"
