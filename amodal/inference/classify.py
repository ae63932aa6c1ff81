"""Classification by classes that were never seen: by their names, by descriptions, by attributes.

A record belongs to the class whose vector is nearest, where fields have a common space with a field
of words (Radford et al. 2021, arXiv:2103.00020, 3.1), or to the class whose attributes a method
predicts (`amodal.core.protocols.DescribesClasses`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column, unknown
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.protocols import DescribesClasses, HasLogitScale
from amodal.data import Dataset
from amodal.inference.class_prompts import Classes, class_vectors, spaced
from amodal.inference.common_space import compared_fields
from amodal.inference.embed import Embedded, device_of, embed_values
from amodal.inference.forward_passes import AnyEncoder, eval_mode, sequential_loader
from amodal.inference.knowledge_prompts import plain
from amodal.methods.contract import Method
from amodal.modalities import BadValue

USUAL_TEMPERATURE = 0.07
"""Of the softmax over cosines, for runs that have none of their own."""
RUNS_THAT_DO = (
    "train a method that compares fields with texts (clip, siglip, merl, …: `amodal compare` says "
    "which fit), or learn the classes from labels: amodal adapt RUN --label LABEL"
)


class NoClassSpace(AmodalError):
    """A run cannot compare records with classes; the message says why."""


@dataclass(frozen=True)
class Likeness:
    """What cosines or logits mean.

    Args:
        scale: They are multiplied by it before a softmax or a sigmoid.
        bias: Of the sigmoid; None for a run that learnt a softmax.
        of: Where the scale comes from, for people.
    """

    scale: float
    bias: float | None
    of: str

    @staticmethod
    def learned(method: Method | None, temperature: float | None = None) -> Likeness:
        """That of a method.

        Args:
            method: None for an encoder alone.
            temperature: In place of the method's own.

        Raises:
            AmodalError: For a temperature of 0 or less.
        """
        if temperature is not None:
            if temperature <= 0:
                raise AmodalError(f"a temperature is above 0, not {temperature}")
            return Likeness(1 / temperature, None, f"the temperature {temperature:g}")
        if isinstance(method, DescribesClasses):
            return Likeness(1.0, None, "the run's own logits")
        scale = method.logit_scale() if isinstance(method, HasLogitScale) else None
        if scale is not None:
            bias = getattr(scale, "bias", None)
            return Likeness(
                float(scale().detach()),
                None if bias is None else float(bias.detach()),
                "the run's learned scale",
            )
        own = getattr(method, "temperature", None)
        if isinstance(own, float) and own > 0:
            return Likeness(1 / own, None, f"the run's temperature {own:g}")
        usual = f"the usual temperature {USUAL_TEMPERATURE}, as this run has none"
        return Likeness(1 / USUAL_TEMPERATURE, None, usual)

    def probabilities(self, scores_NC: np.ndarray, *, single: bool = False) -> np.ndarray:
        """(N, C): of one class of all, or of each `single` class by itself."""
        logits = torch.from_numpy(scores_NC).double() * self.scale
        if single:
            return torch.sigmoid(logits + (self.bias or 0.0)).numpy()
        return logits.softmax(1).numpy()


@dataclass(frozen=True)
class NamedClasses:
    """Classes in the space of an encoder.

    Args:
        classes: What they are called.
        prompts: Class -> its sentences; {} where they are described by cells.
        by: The field that they are described in.
        sources: The fields whose records are compared with them.
        vectors_CD: Unit vectors; None for a method that compares attributes.
        described: The classes as rows of a batch, for such a method.
    """

    classes: Classes
    prompts: Mapping[str, Sequence[str]]
    by: str
    sources: tuple[str, ...]
    vectors_CD: Tensor | None
    described: Batch | None = None

    def scores(self, embedded: Embedded) -> dict[str, Column]:
        """Field -> (n, C) cosines of its records with the classes (the absolute ones, where the
        sign of a vector means nothing)."""
        assert self.vectors_CD is not None, "a method compares attributes by `method_scores`"
        return {
            source: similarities(embedded.aligned[source], self.vectors_CD, embedded.abs_cosine)
            for source in self.sources
            if source in embedded.aligned
        }

    def together(self, embedded: Embedded) -> Column:
        """(n, C) of all fields of a record together: cosines with the mean of their vectors."""
        assert self.vectors_CD is not None, "a method compares attributes by `method_scores`"
        present = [s for s in self.sources if s in embedded.aligned]
        column = embedded.aligned[present[0]] if len(present) == 1 else embedded.fused(present)
        return similarities(column, self.vectors_CD, embedded.abs_cosine)


def similarities(column: Column, vectors_CD: Tensor, abs_cosine: bool = False) -> Column:
    """(n, C) cosines of the vectors of a column with unit vectors."""
    cosine_NC = normalize(vectors_of(column).float(), dim=1) @ vectors_CD.T
    return Column(cosine_NC.abs() if abs_cosine else cosine_NC, column.rows)


def named_classes(
    encoder: AnyEncoder,
    classes: Classes,
    templates: Sequence[str],
    *,
    method: Method | None = None,
    field: str = "",
    by: str = "",
) -> NamedClasses:
    """Classes in the space of an encoder.

    Args:
        encoder: Embeds records and descriptions.
        classes: What they are called, and what is known of them.
        templates: Sentences with {} for a class.
        method: That trained the encoder, if it is known.
        field: Whose records are compared with the classes; all but `by` unless set.
        by: The field that classes are described in: a text, or a table for classes of which the
            cells are known. Unless set that of the method, the first text, or the first table.

    Raises:
        NoClassSpace: For a run without such a field, or without a common space.
        AmodalError: For unknown fields, and for classes whose cells are not known.
    """
    by, sources = check_space(encoder, method, classes, by, field)
    if isinstance(method, DescribesClasses) and by == method.description_field:
        return NamedClasses(classes, {}, by, tuple(sources), None, _cells(encoder, by, classes))
    if encoder.fields[by].is_row:
        described = _cells(encoder, by, classes)
        with torch.no_grad(), eval_mode(encoder):
            vectors = normalize(vectors_of(encoder(described)[by]).float().cpu(), dim=1)
        return NamedClasses(classes, {}, by, tuple(sources), vectors)
    prompts = classes.prompts(templates)
    vectors = class_vectors(lambda texts: embed_values(encoder, by, texts), prompts)
    return NamedClasses(classes, prompts, by, tuple(sources), vectors)


def check_space(
    encoder: AnyEncoder, method: Method | None, classes: Classes, by: str = "", field: str = ""
) -> tuple[str, list[str]]:
    """The field that classes are described in, and those whose records are compared with them.

    Args:
        encoder: See `named_classes`.
        method: See `named_classes`.
        classes: See `named_classes`.
        by: See `named_classes`.
        field: See `named_classes`.

    Raises:
        NoClassSpace: See `named_classes`.
        AmodalError: For unknown fields.
    """
    if by and by not in encoder.fields:
        raise unknown("field of this run", by, encoder.fields)
    if isinstance(method, DescribesClasses) and by in ("", method.description_field):
        sources = [f for f in encoder.fields if f != method.description_field]
        _check_field(field, sources)
        return method.description_field, [field] if field else sources
    by = by or _describing_field(encoder, method, classes)
    if not (encoder.fields[by].takes_prompts or encoder.fields[by].is_row):
        raise NoClassSpace(
            f"classes are described in words or in the cells of a table, and {by} is neither"
        )
    return by, _sources(encoder, method, by, field)


def _describing_field(encoder: AnyEncoder, method: Method | None, classes: Classes) -> str:
    """The field in which classes are described."""
    texts = [name for name, modality in encoder.fields.items() if modality.takes_prompts]
    tables = [name for name, modality in encoder.fields.items() if modality.is_row]
    shared = compared_fields(encoder, method)
    for name in (*texts, *(tables if classes.cells else ())):
        if name in shared or len(encoder.fields) == 1:
            return str(name)
    have = ", ".join(encoder.fields)
    if not texts:
        also = " (or a table, and a file with the cells of each class)" if tables else ""
        raise NoClassSpace(
            f"classes are named in words, and this run reads none: it has {have}. It takes a field "
            f"of text beside it{also}: {RUNS_THAT_DO}"
        )
    raise NoClassSpace(
        f"this run has no common space of {texts[0]} and other fields (it has {have}), so no class "
        f"can be found by its name: {RUNS_THAT_DO}"
    )


def _sources(encoder: AnyEncoder, method: Method | None, by: str, field: str) -> list[str]:
    """The fields whose records are compared with the classes."""
    shared = compared_fields(encoder, method)
    if field == by or (not field and [*encoder.fields] == [by]):
        return [by]  # a space is common with itself
    if by not in shared:
        raise NoClassSpace(
            f"{by} has no common space with the other fields of this run, so no class can be found "
            f"by its name: {RUNS_THAT_DO}"
        )
    sources = [name for name in shared if name != by]
    _check_field(field, [*sources, by])
    return [field] if field else sources


def _check_field(field: str, among: Sequence[str]) -> None:
    if field and field not in among:
        raise unknown("field to classify in this run", field, among)


def _cells(encoder: AnyEncoder, by: str, classes: Classes) -> Batch:
    """The classes as rows of a table."""
    modality, values = encoder.fields[by], []
    for name in classes.names:
        cells = {**classes.cells.get(name, {})}
        try:
            values.append(modality.decode_finite(cells))
        except BadValue as error:
            raise AmodalError(
                f"the class {name!r} cannot be described by {by}: {error}. A file of classes has "
                f"its attributes as columns: class,{','.join(getattr(modality, 'columns', ()))}"
            ) from error
    column = Column(modality.collate(values), torch.arange(len(values)))
    return Batch.of(len(values), {by: column}).to(device_of(encoder))


@torch.no_grad()
def method_scores(
    method: Method,
    named: NamedClasses,
    dataset: Dataset,
    indices: Sequence[int] | np.ndarray,
    *,
    batch: int = 256,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Column]:
    """Logits by a method that compares attributes.

    Args:
        method: See `DescribesClasses`.
        named: Of that method.
        dataset: Where the records are.
        indices: Which records.
        batch: Records computed at once.
        progress: Called with the number of records just done.

    Returns:
        Field -> (n, C) on the CPU; rows count from zero.
    """
    assert isinstance(method, DescribesClasses) and named.described is not None
    device, parts, sizes = device_of(method.encoder), dict[str, list[Column]](), []
    with eval_mode(method):
        for part in sequential_loader(dataset, indices, batch):
            logits = method.class_logits(part.to(device), named.described)
            for source in named.sources:
                empty = Column(torch.zeros(0, len(named.classes)), torch.zeros(0).long())
                column = logits[source].to("cpu") if source in logits else empty
                parts.setdefault(source, []).append(column)
            sizes.append(part.size)
            if progress is not None:
                progress(part.size)
    return {source: Column.stack(columns, sizes) for source, columns in parts.items()}


def mean_scores(columns: Mapping[str, Column], size: int) -> Column:
    """(n, C) means over the fields that a record has."""
    first = next(iter(columns.values()))
    total = vectors_of(first).new_zeros(size, vectors_of(first).shape[1])
    count = torch.zeros(size)
    for column in columns.values():
        total = total.index_add(0, column.rows, vectors_of(column))
        count = count.index_add(0, column.rows, torch.ones(len(column)))
    rows = count.nonzero().squeeze(1)
    return Column(total[rows] / count[rows, None], rows)


def stacked(scores_NC: Any, names: Sequence[str], seen: Sequence[str], stacking: float) -> Any:
    """Scores with those of seen classes lowered (calibrated stacking: Chao et al. 2016,
    arXiv:1605.04253).

    Args:
        scores_NC: Of all classes, a tensor or an array.
        names: Of the C classes.
        seen: Classes that were trained on.
        stacking: What is subtracted.

    Raises:
        AmodalError: For a class that is none of them, and for `stacking` without `seen`.
    """
    if stacking and not seen:
        raise AmodalError("stacking lowers the scores of seen classes; say which: seen")
    have = {plain(name): number for number, name in enumerate(names)}
    for name in seen:
        if plain(name) not in have:
            raise unknown("class", spaced(name), names)
    if not stacking:
        return scores_NC
    columns = [have[plain(name)] for name in seen]
    lowered = scores_NC.clone() if isinstance(scores_NC, Tensor) else scores_NC.copy()
    lowered[:, columns] -= stacking
    return lowered
