"""Names for clusters, chosen from classes by the votes of their members."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.evaluate.self_labels import names_by_vote
from amodal.inference.class_prompts import (
    ClassesLike,
    TemplatesLike,
    class_vectors,
    read_classes,
    read_templates,
)
from amodal.inference.classify import named_classes
from amodal.inference.common_space import ALIKE, compared_fields, pairs_alike
from amodal.inference.embed import Embedded, embed_records, embed_values

if TYPE_CHECKING:
    from amodal.model import Model


def named(
    model: Model,
    embedded: Embedded,
    rows_n: Tensor,
    source: str,
    cluster_n: np.ndarray,
    classes: ClassesLike,
    templates: TemplatesLike = ("name",),
) -> dict[int, str]:
    """Name clusters.

    Args:
        model: With a text field, in which the classes are embedded.
        embedded: N records.
        rows_n: int64 rows of those that are clustered.
        source: What they are clustered by, a field or `fused`.
        cluster_n: Their clusters.
        classes: To choose from, see `amodal.inference.class_prompts.read_classes`.
        templates: See `amodal.inference.class_prompts.read_templates`.

    Returns:
        cluster -> the class that most of its members are nearest to.

    Raises:
        AmodalError: For a run that has no text field, or more than one, or none in the space of
            the clustered one.
    """
    texts = [name for name, modality in model.fields.items() if modality.takes_prompts]
    if len(texts) != 1:
        has = "none" if not texts else ", ".join(texts)
        raise AmodalError(
            f"names are chosen by the one text field of a run, and this run has {has}; without "
            "words, clusters are described by what sets them apart, and another run of the same "
            "fields that has one text can name them: --names-by RUN"
        )
    shared = compared_fields(model.encoder, model.method)
    apart = AmodalError(
        f"{source} and {texts[0]} have no common space in this run; names take a method that "
        "aligns them, such as clip"
    )
    if texts[0] not in shared or (source != FUSED and source not in shared):
        raise apart
    read = read_classes(classes)
    words_CD = class_vectors(
        lambda sentences: embed_values(model.encoder, texts[0], sentences),
        read.prompts(read_templates(templates)),
    )
    aligned = embedded.fused() if source == FUSED else embedded.aligned[source]
    own_text = embedded.aligned[texts[0]] if texts[0] in embedded.aligned else None
    area = None if own_text is None or own_text is aligned else pairs_alike(aligned, own_text)
    same = vectors_of(aligned).shape[1] == words_CD.shape[1]
    if not same or (area is not None and area < ALIKE):
        raise apart
    among = torch.isin(aligned.rows, rows_n)
    return names_by_vote(cluster_n, vectors_of(aligned)[among].float(), words_CD, read.names)


def named_by_another(
    model: Model,
    data: Dataset,
    rows_N: np.ndarray,
    rows_n: Tensor,
    source: str,
    cluster_n: np.ndarray,
    classes: ClassesLike,
    templates: TemplatesLike = ("name",),
    progress: Callable[[int], object] | None = None,
) -> dict[int, str]:
    """Name the clusters of one run in the space of another one.

    Args:
        model: The other run, which compares a text with the fields of these records.
        data: The records.
        rows_N: Numbers of those that were embedded.
        rows_n: int64, which of these are clustered.
        source: What they are clustered by: the field that votes, if the other run has it.
        cluster_n: See `named`.
        classes: See `named`.
        templates: See `named`.
        progress: Called with the number of records just done.

    Returns:
        See `named`. A cluster none of whose members the other run can read has no name.

    Raises:
        AmodalError: For a run without a common space, or without a field of these records.
    """
    read = read_classes(classes)
    field = source if source in model.fields else ""
    space = named_classes(
        model.encoder, read, read_templates(templates), method=model.method, field=field
    )
    missing = data.missing_fields(model.fields)
    if not set(space.sources) - set(missing):
        raise AmodalError(
            f"the run of --names-by compares {', '.join(space.sources)} with texts, and "
            f"{data.name!r} has none of these fields"
        )
    whole = model.with_features(data.with_columns(missing).with_fields(model.fields))
    embedded = embed_records(
        model.encoder, whole, rows_N, device=model.device, progress=progress, labels=False
    )
    scores = space.together(embedded)
    cluster_of = dict(zip(rows_n.tolist(), cluster_n.tolist()))
    voting = [(i, row) for i, row in enumerate(scores.rows.tolist()) if row in cluster_of]
    votes = np.array([cluster_of[row] for _, row in voting], dtype=np.int64)
    index = torch.tensor([i for i, _ in voting], dtype=torch.int64)
    # the scores are the coordinates by which a member is nearest to a class
    return names_by_vote(votes, vectors_of(scores)[index], torch.eye(len(read)), read.names)
