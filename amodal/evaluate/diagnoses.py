"""`amodal diagnose`: what the vectors of a run look like, without any label.

The functions are those of `amodal.diagnose`, and each number stands beside that of the same encoder
before training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from amodal.core import AmodalError, unknown
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.diagnose.dimension import dimension
from amodal.diagnose.disagreement import disagreement
from amodal.diagnose.geometry import geometry
from amodal.diagnose.label_free import label_free_scores
from amodal.diagnose.neighbours import mutual_knn
from amodal.diagnose.spectrum import spectrum
from amodal.diagnose.volume import volume_of
from amodal.evaluate.class_outliers import ClassOutlier, class_outliers
from amodal.evaluate.diagnosis import Diagnosis, K
from amodal.evaluate.expert_use import EXPERTS, has_experts, use_of_experts
from amodal.evaluate.layer_agreement import agreement_of_layers
from amodal.inference.common_space import ALIKE
from amodal.inference.embed import Embedded, embed_records
from amodal.progress import Bar

if TYPE_CHECKING:
    from amodal.model import Model

MAX_RECORDS = 5000
"""All pairs of records are compared."""
ODD = 10
"""Records whose fields disagree most, that are named."""
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
OTHERS = (EXPERTS, LAYERS)
"""Diagnoses by forward passes of their own."""


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
        only: Names of `DIAGNOSES`, and "experts" of an encoder that has them; all these unless set.
            Or "layers", of pretrained backbones.
        label: Also name records that are unlike the others of their class.
        part: "train", "valid" or "test"; all records unless set.
        records: How many at most, drawn at random; all pairs of them are compared.
        untrained: Measure the same encoder before training beside it.
        seed: Of the choice of records.
        progress: Show a bar.

    Raises:
        AmodalError: For an unknown name, for one that this encoder has nothing for, and for fewer
            than three records.
    """
    for name in only:
        if name not in (*DIAGNOSES, *OTHERS):
            raise unknown("diagnosis", name, (*DIAGNOSES, *OTHERS))
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
        return Diagnosis(dataset.name, _entries(_by_metric(LAYERS, found)), {}, len(rows))
    if LAYERS in only:
        raise AmodalError("layers are compared without other diagnoses: only layers")
    if EXPERTS in only and not has_experts(model):
        raise AmodalError(
            f"this run's encoder has no experts to look at: `{EXPERTS}` is for runs of limoe, or "
            "with --experts"
        )
    models = [model, model.untrained()] if untrained else [model]
    if list(only) == [EXPERTS] and label is None:
        routed = _of_experts(models, dataset, rows, progress)
        return Diagnosis(dataset.name, _entries(*routed), {}, len(rows))
    with Bar("embed", len(rows) * len(models), shown=progress) as bar:
        embedded = [_embedded(one, dataset, rows, bar) for one in models]
    for source, column in embedded[0].features.columns.items():
        if not torch.isfinite(vectors_of(column)).all():
            raise AmodalError(f"vectors of {source} are not finite: the run has diverged")
    names = [name for name in DIAGNOSES if name in only or not only]
    measured = [_measured(z, names) for z in embedded]
    if has_experts(model) and (EXPERTS in only or not only):
        routed = _of_experts(models, dataset, rows, progress)
        measured = [values | more for values, more in zip(measured, routed)]
    outliers: list[ClassOutlier] = []
    by_untrained: frozenset[str] = frozenset()
    if label is not None:
        outliers = class_outliers(embedded[0], label)
        if untrained:
            by_untrained = frozenset(o.key for o in class_outliers(embedded[1], label))
    return Diagnosis(
        dataset.name,
        _entries(*measured),
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


Values = dict[tuple[str, str, str, str], float]
"""(diagnosis, source, target, metric) -> value."""


def _entries(trained: Values, untrained: Values | None = None) -> list[dict[str, Any]]:
    """An entry of a diagnosis for each number."""
    return [
        {
            "diagnosis": name,
            "source": source,
            "target": target,
            "metric": metric,
            "value": value,
            "untrained": untrained and untrained.get((name, source, target, metric)),
        }
        for (name, source, target, metric), value in trained.items()
    ]


def _by_metric(diagnosis: str, rows: Sequence[Row]) -> Values:
    return {
        (
            diagnosis,
            str(row.get("source", row.get("sources", ""))),
            str(row.get("target", "")),
            metric,
        ): float(value)
        for row in rows
        for metric, value in row.items()
        if not isinstance(value, str)
    }


def _measured(z: Embedded, names: Sequence[str]) -> Values:
    values: Values = {}
    for name in names:
        values |= _by_metric(name, DIAGNOSES[name](z))
    return values


def _of_experts(
    models: Sequence[Model], dataset: Dataset, rows: np.ndarray, progress: bool
) -> list[Values]:
    """Values of each model."""
    measured: list[Values] = [{} for _ in models]
    with Bar("route", len(rows) * len(models), shown=progress) as bar:
        for model, values in zip(models, measured):
            tables = use_of_experts(
                model, dataset, rows, lambda count: bar.step("records", by=count)
            )
            for name, table in tables.items():
                values |= _by_metric(name, table)
    return measured


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
