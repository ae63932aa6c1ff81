"""`amodal predict --classes`: which of the named classes each record belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from amodal import data as records
from amodal.core import AmodalError
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.inference.class_prompts import (
    ClassesLike,
    TemplatesLike,
    read_classes,
    read_templates,
)
from amodal.inference.classify import (
    Likeness,
    NamedClasses,
    mean_scores,
    method_scores,
    named_classes,
    stacked,
)
from amodal.inference.common_space import ALIKE, pairs_alike
from amodal.inference.embed import embed_records
from amodal.inference.write_table import check_file, write_table
from amodal.progress import Bar

if TYPE_CHECKING:
    from amodal.model import Model

HALF = 0.5
"""The probability from which a record has a class of its own, for runs that learnt a sigmoid."""
NO_THRESHOLD = (
    "No record has a class yet, as this run learnt which of many texts belongs to a record, and "
    "no probability of one text alone: columns are cosines, and --threshold says from which on a "
    "record has the class"
)
SHOWN = 8
"""Classes whose numbers a sentence has."""


@dataclass(frozen=True)
class ClassPredictions:
    """Named classes of records.

    Args:
        keys: Of the N records.
        names: Of the C classes.
        scores: (N, C) float32 cosines (or logits of a method that compares attributes), NaN for a
            record without a field to compare.
        likeness: What scores mean.
        multi_label: Whether a record may have any number of classes.
        threshold: Of multi-label predictions: of the probabilities where the run learnt a sigmoid,
            else of the scores; None for none.
        notes: What a reader should know.
    """

    keys: Sequence[str]
    names: Sequence[str]
    scores: npt.NDArray[np.float32]
    likeness: Likeness
    multi_label: bool = False
    threshold: float | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        """(N,) which records could not be compared."""
        missing: npt.NDArray[np.bool_] = np.asarray(np.isnan(self.scores).any(1))
        return missing

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(N, C): of one class of all; of each class by itself where labels are multiple."""
        return self.likeness.probabilities(self.scores, single=self.multi_label)

    @property
    def values(self) -> npt.NDArray[Any]:
        """(N, C) what is written of each class: probabilities, or cosines where a run has no
        probability of a single class."""
        single = self.multi_label and self.likeness.bias is None
        return self.scores if single else self.probabilities

    def table(self) -> pa.Table:
        """A row for each record.

        Returns:
            `key`; `class`, its `similarity` and `probability`, the `next` class, and the `margin`
            of both similarities, or `classes` with "; " between them; and `class=NAME` for each
            class. Null where nothing could be compared.
        """
        missing = self.missing
        columns = {"key": pa.array(list(self.keys))}
        columns |= self._many(missing) if self.multi_label else self._one(missing)
        values = np.nan_to_num(self.values).astype(np.float32)
        each = {
            f"class={n}": pa.array(values[:, c], mask=missing) for c, n in enumerate(self.names)
        }
        return pa.table(columns | each)

    def _one(self, missing: npt.NDArray[np.bool_]) -> dict[str, pa.Array]:
        scores = np.nan_to_num(self.scores)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :2]
        best, second = np.take_along_axis(scores, order, 1).T
        names = np.array(self.names, dtype=object)
        own = np.take_along_axis(np.nan_to_num(self.probabilities), order[:, :1], 1)[:, 0]
        return {
            "class": pa.array(names[order[:, 0]].tolist(), pa.string(), mask=missing),
            "similarity": pa.array(best, mask=missing),
            "probability": pa.array(own.astype(np.float32), mask=missing),
            "next": pa.array(names[order[:, 1]].tolist(), pa.string(), mask=missing),
            "margin": pa.array(best - second, mask=missing),
        }

    def _many(self, missing: npt.NDArray[np.bool_]) -> dict[str, pa.Array]:
        if self.threshold is None:
            return {}
        chosen = [
            "; ".join(name for name, has in zip(self.names, row) if has)
            for row in self.values >= self.threshold
        ]
        return {"classes": pa.array(chosen, pa.string(), mask=missing)}

    @property
    def sentence(self) -> str:
        """How many records have which class, and what to make of it."""
        there, total = ~self.missing, len(self)
        parts = [
            f"{int(there.sum()):,} of {total:,} records compared with {len(self.names)} classes"
        ]
        if not self.multi_label and there.any():
            counts = Counter(self.scores[there].argmax(1).tolist())
            shown = [f"{self.names[c]} {n:,}" for c, n in counts.most_common(SHOWN)]
            more = len(counts) - len(shown)
            parts[0] += f": {', '.join(shown)}{f' and {more} more' if more > 0 else ''}"
        elif self.threshold is not None and there.any():
            share = (self.values[there] >= self.threshold).mean(0)
            shown = [f"{n} {s:.0%}" for n, s in zip(self.names[:SHOWN], share)]
            more = len(self.names) - len(shown)
            parts[0] += f": {', '.join(shown)}{f' and {more} more' if more > 0 else ''}"
        return ". ".join([*parts, *self.notes])


def classify(
    model: Model,
    data: Any,
    classes: ClassesLike,
    *,
    templates: TemplatesLike = ("name",),
    field: str = "",
    by: str = "",
    part: str | None = None,
    multi_label: bool = False,
    threshold: float | None = None,
    temperature: float | None = None,
    seen: Sequence[str] = (),
    stacking: float = 0.0,
    progress: Callable[[int], object] | None = None,
) -> ClassPredictions:
    """Find the class of each record by what the classes are called, or what is known of them.

    Args:
        model: A run with a common space of words and other fields, or of a method that compares
            attributes.
        data: Whatever `amodal.open` takes; it need not have the field that describes classes.
        classes: See `amodal.inference.class_prompts.read_classes`.
        templates: See `amodal.inference.class_prompts.read_templates`.
        field: Whose values are compared; all but the describing one, together, unless set.
        by: The field that classes are described in.
        part: "train", "valid" or "test"; all records if None.
        multi_label: Whether a record may have any number of classes.
        threshold: From which it has one: a probability if the run learnt a sigmoid (siglip; .5
            unless set), else a cosine.
        temperature: Of the softmax, the run's own unless set.
        seen: Classes that the run was trained on.
        stacking: What is subtracted from the scores of these.
        progress: Called with the number of records just done.

    Raises:
        AmodalError: For a run that cannot compare records with classes, with what to do instead,
            for data without a field to compare, and for wrong classes, templates and options.
    """
    read, sentences = read_classes(classes), read_templates(templates)
    named = named_classes(model.encoder, read, sentences, method=model.method, field=field, by=by)
    likeness = Likeness.learned(model.method, temperature)
    threshold = _threshold(multi_label, threshold, likeness)
    dataset = readable(model, data, named)
    indices = np.asarray(dataset.split(part) if part else np.arange(len(dataset)))
    if not len(indices):
        raise AmodalError(f"there is no record in the part {part!r} of {dataset.name!r}")
    notes = [] if multi_label else [f"Probabilities: softmax at {likeness.of}"]
    notes += [NO_THRESHOLD] if multi_label and threshold is None else []
    if named.vectors_CD is None:
        assert model.method is not None, "it compares attributes"
        columns = method_scores(model.method, named, dataset, indices, progress=progress)
        column = mean_scores(columns, len(indices))
    else:
        embedded = embed_records(
            model.encoder, dataset, indices, device=model.device, progress=progress, labels=False
        )
        if not any(s in embedded.aligned for s in named.sources):
            raise _nothing(dataset, named)
        column = named.together(embedded)
        notes += _doubts(named, column, embedded.aligned.columns)
    if not len(column):
        raise _nothing(dataset, named)
    scores = np.full((len(indices), len(read)), np.nan, dtype=np.float32)
    scores[column.rows.numpy()] = vectors_of(column).numpy()
    scores = stacked(scores, read.names, seen, stacking)
    return ClassPredictions(
        [dataset.keys[i] for i in indices.tolist()],
        read.names,
        scores,
        likeness,
        multi_label,
        threshold,
        notes,
    )


def readable(model: Model, data: Any, named: NamedClasses) -> Dataset:
    """The data with the fields of the model, of which it needs to have one that is compared."""
    dataset = records.open(data, expected=model.fields)
    missing = dataset.missing_fields(model.fields)
    if not set(named.sources) - set(missing):
        raise _nothing(dataset, named)
    whole = dataset.with_columns(missing).with_fields(model.fields)
    return model.with_features(whole)


def _nothing(dataset: Dataset, named: NamedClasses) -> AmodalError:
    others = (
        "" if named.by in named.sources else f"; for the texts of {named.by}: --field {named.by}"
    )
    return AmodalError(
        f"no record of {dataset.name!r} has a value of {' or '.join(named.sources)}, which is what "
        f"this run compares with classes{others if dataset.fields.get(named.by) else ''}"
    )


def _threshold(multi_label: bool, threshold: float | None, likeness: Likeness) -> float | None:
    if not multi_label:
        if threshold is not None:
            raise AmodalError(
                "a threshold is of records that may have any number of classes; add --multi-label, "
                "or leave it out"
            )
        return None
    return HALF if threshold is None and likeness.bias is not None else threshold


def _doubts(named: NamedClasses, column: Any, aligned: Any) -> list[str]:
    """Notes on a run whose records are hardly more like their own texts than like others."""
    if named.by in named.sources or named.by not in aligned or named.vectors_CD is None:
        return []
    both = [s for s in named.sources if s in aligned]
    area = pairs_alike(aligned[both[0]], aligned[named.by])
    if area is None or area >= ALIKE:
        return []
    return [
        f"Do not rely on it: {both[0]} and {named.by} of a record are hardly more alike than those "
        f"of different records ({area:.2f}, by chance .5)"
    ]


def write_classes(
    model: Model, data: Any, out: str | Path, *, part: str | None = None, **options: Any
) -> str:
    """Write which of the named classes each record belongs to, to a .csv or .parquet file.

    Args:
        model: See `classify`.
        data: Whatever `amodal.open` takes.
        out: The file.
        part: "train", "valid" or "test"; all records if None.
        options: Of `classify`.

    Returns:
        How many records have which class.

    Raises:
        AmodalError: For another kind of file, and see `classify`.
    """
    out, dataset = check_file(out), records.open(data, expected=model.fields)
    with Bar("predict", len(dataset.split(part) if part else dataset)) as bar:
        found = classify(
            model, dataset, part=part, progress=lambda n: bar.step("records", by=n), **options
        )
    write_table(found.table(), out)
    return found.sentence
