"""`amodal cluster`: the records of a dataset in clusters, without any label."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal import data as records
from amodal.cluster.descriptions import descriptions
from amodal.cluster.groups import (
    MAX_GRAPH,
    Groups,
    by_kmeans,
    by_membership,
    candidate_numbers,
    margins,
    one_cloud,
    silhouette,
    stability,
)
from amodal.cluster.names import named, named_by_another
from amodal.cluster.result import Clustering
from amodal.core import AmodalError, Column, unknown
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.data.attributes import Attributes
from amodal.evaluate.context import EmbeddedParts
from amodal.evaluate.labels import NotApplicable, is_number
from amodal.evaluate.yardsticks import SimpleParts
from amodal.inference.class_prompts import ClassesLike, TemplatesLike, read_classes
from amodal.inference.embed import Embedded, embed_records, known
from amodal.progress import Bar
from amodal.stats.clustering import adjusted_mutual_information, matched_accuracy

if TYPE_CHECKING:
    from amodal.model import Model

BY = ("auto", "kmeans", "spectral", "membership")
MOST_CLUSTERS = 20
MAX_DESCRIBED = 2000
"""Records by which clusters are described."""
MAX_SIMPLE = 5000
"""Records of which simple features are made."""


def cluster(
    model: Model,
    data: Any,
    *,
    field: str | None = None,
    by: str = "auto",
    number: int | None = None,
    most_clusters: int = MOST_CLUSTERS,
    words: ClassesLike = (),
    templates: TemplatesLike = ("name",),
    names_by: Model | None = None,
    label: str | None = None,
    part: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Clustering:
    """Cluster records.

    K-means of unit vectors takes the number of clusters with the largest silhouette. Spectral
    clusters are of a doubly stochastic membership, and their number has the shortest code (Chu et
    al. 2024, arXiv:2306.05272); a run of `cpp` has learnt that membership.

    Args:
        model: Its encoder embeds the records.
        data: Whatever `amodal.open` takes.
        field: Whose vectors are clustered; all together (`fused`) unless set.
        by: One of `BY`. auto is membership for a run of `cpp`, and kmeans for others.
        number: Of clusters, chosen unless set.
        most_clusters: The largest number that is tried.
        words: Candidates for names, or classes with descriptions. Each member votes for the nearest
            one, which takes a text field in the space of the clustered one.
        templates: Sentences around them, see `amodal.inference.class_prompts.read_templates`.
        names_by: Another run, in whose space of texts members vote.
        label: One that clusters are compared with. They do not depend on it.
        part: "train", "valid" or "test"; all records unless set.
        seed: Of all that is random.
        progress: Show bars.

    Raises:
        AmodalError: For options that do not fit the run or the data, and for too few records.
    """
    if by not in BY:
        raise unknown("way to cluster", by, BY)
    if seed < 0:
        raise AmodalError(f"seed is {seed}, and 0 is the least")
    decoded = model.read(data)
    dataset = model.with_features(decoded)
    if label is not None:
        _check_label(dataset, label)
    rows = np.asarray(dataset.split(part) if part else np.arange(len(dataset)))
    membership = model.config.get("method") == "cpp" if by == "auto" else by == "membership"
    if membership and model.config.get("method") != "cpp":
        raise AmodalError("membership is learnt by cpp, and this is no run of it; take spectral")
    if membership and words and names_by is None:
        raise AmodalError(
            "the heads of cpp have no space in common with texts; name its clusters by a run that "
            "has one (--names-by RUN), or leave names out: clusters are described by what sets "
            "them apart"
        )
    if names_by is not None and not words:
        raise AmodalError("another run names clusters by words; say which: --names FILE")
    if words:
        read_classes(words)  # a mistake in them is refused before anything is embedded
    with Bar("embed", len(rows), shown=progress) as bar:
        embedded = embed_records(
            model.encoder,
            dataset,
            rows,
            device=model.device,
            progress=lambda count: bar.step("records", by=count),
        )
    space = _spaces(embedded, membership)
    if field is None and FUSED not in space and len(space) > 1:
        raise AmodalError(
            f"a run of cpp divides each field by itself; say which: {', '.join(space)}"
        )
    source = field or (FUSED if FUSED in space else next(iter(space), ""))
    if source not in space:
        raise unknown("field of this run", source, space)
    column = space[source]
    if source == FUSED and embedded.abs_cosine:
        raise AmodalError(
            "this run compares vectors whose sign means nothing, so those of all fields have no "
            f"mean; say which field: {', '.join(s for s in space if s != FUSED)}"
        )
    way = "membership" if membership else "kmeans" if by == "auto" else by
    numbers = candidate_numbers(
        len(column), number, most_clusters, fitted=None if way == "kmeans" else MAX_GRAPH
    )
    z_ND, member_NE = _directions(column, membership)
    if not torch.isfinite(vectors_of(column)).all():
        raise AmodalError(f"vectors of {source} are not finite: the run has diverged")
    if torch.allclose(z_ND, z_ND[:1], atol=1e-6):
        raise AmodalError(f"the vectors of {source} are all the same: there is nothing to cluster")
    with Bar("clusters", len(numbers), shown=progress) as bar:
        groups = _fit(
            way, z_ND, numbers, member_NE, seed, step=lambda: bar.step("numbers of clusters")
        )
    keys = [embedded.keys[i] for i in column.rows.tolist()]
    simple = _simple(model, dataset, rows, embedded, column, field, seed)
    both_ND = z_ND if member_NE is None else torch.cat([z_ND, member_NE], 1) / 2**0.5
    fit_sample = partial(_fit_sample, way, groups.number)
    cloud_ND = one_cloud(both_ND, seed=seed)
    whole = np.full(len(rows), -1, dtype=np.int64)
    margin = np.full(len(rows), np.nan)
    whole[column.rows.numpy()] = groups.cluster_N
    margin[column.rows.numpy()] = margins(z_ND, groups.cluster_N)
    described = _described(data, dataset, keys, groups.cluster_N, seed)
    names: dict[int, str] = {}
    if names_by is not None:
        with Bar("names", len(rows), shown=progress) as bar:
            names = named_by_another(
                names_by,
                records.open(data),
                rows,
                column.rows,
                source,
                groups.cluster_N,
                words,
                templates,
                progress=lambda count: bar.step("records", by=count),
            )
    elif words:
        names = named(model, embedded, column.rows, source, groups.cluster_N, words, templates)
    return Clustering(
        keys=embedded.keys,
        cluster=whole,
        margin=margin,
        source=source,
        by=way,
        dataset=decoded,
        names=names,
        descriptions=described,
        judged=groups.judged,
        stability=stability(both_ND, fit_sample, seed=seed),
        silhouette=silhouette(both_ND, groups.cluster_N, seed=seed),
        cloud=silhouette(cloud_ND, fit_sample(cloud_ND, seed), seed=seed),
        simple=None if simple is None else stability(simple[0], _simple_fit(groups), seed=seed),
        scores=_scores(embedded, label, column, groups, simple, seed) if label else {},
        label=label or "",
    )


def _spaces(embedded: Embedded, membership: bool) -> dict[str, Column]:
    """Source -> the vectors that are clustered; those that learnt membership are aligned ones."""
    if not membership:
        return embedded.probed()
    columns = {source: embedded.aligned[source] for source in embedded.aligned}
    return {s: c for s, c in columns.items() if s != FUSED} or columns


def _directions(column: Column, membership: bool) -> tuple[Tensor, Tensor | None]:
    """Unit vectors, and those that define membership where that is learnt."""
    vectors_ND = vectors_of(column).float()
    if not membership:
        return normalize(vectors_ND, dim=1), None
    z_ND, member_NE = vectors_ND.chunk(2, 1)
    return normalize(z_ND, dim=1), normalize(member_NE, dim=1)


def _fit(
    way: str,
    z_ND: Tensor,
    numbers: Sequence[int],
    member_NE: Tensor | None,
    seed: int,
    step: Any = lambda: None,
) -> Groups:
    if way == "kmeans":
        return by_kmeans(z_ND, numbers, seed=seed, step=step)
    return by_membership(z_ND, numbers, member_NE, seed=seed, step=step)


def _fit_sample(way: str, number: int, z_ND: Tensor, seed: int) -> np.ndarray:
    """Clusters of some of the vectors; those of membership stand beside the others."""
    z_ND, member_NE = z_ND.chunk(2, 1) if way == "membership" else (z_ND, None)
    return _fit(way, z_ND, [number], member_NE, seed).cluster_N


def _simple_fit(groups: Groups) -> Any:
    return lambda z_ND, seed: by_kmeans(z_ND, [groups.number], seed=seed).cluster_N


def _simple(
    model: Model,
    dataset: Dataset,
    rows: np.ndarray,
    embedded: Embedded,
    column: Column,
    field: str | None,
    seed: int,
) -> tuple[Tensor, np.ndarray] | None:
    """Simple features of `MAX_SIMPLE` of the clustered records, and the places of these in the
    column; None where they have none."""
    places = np.sort(np.random.default_rng(seed).permutation(len(column))[:MAX_SIMPLE])
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[column.rows.numpy()[places]] = True
    part = embedded.only(chosen)
    try:
        simple = SimpleParts(
            model.encoder.fields,
            dataset,
            (rows, rows),
            EmbeddedParts(lambda: (part, part)),
            pairs=False,
        ).pair[1]
    except NotApplicable:
        return None
    spaces = simple.probed()
    wanted = field or (FUSED if FUSED in spaces else next(iter(spaces)))
    if wanted not in spaces or (field is None and len(model.fields) > 1 and wanted != FUSED):
        return None
    one = spaces[wanted]
    shared = torch.isin(one.rows, column.rows[places])
    if int(shared.sum()) < len(places):  # some have none: they are not the same records
        return None
    return normalize(vectors_of(one)[shared].float(), dim=1), places


def _described(
    data: Any, dataset: Dataset, keys: Sequence[str], cluster_N: np.ndarray, seed: int
) -> dict[int, str]:
    some = np.sort(np.random.default_rng(seed).permutation(len(keys))[:MAX_DESCRIBED])
    # with the fields and columns that the run does not read
    whole = records.open(data, expected=dataset.fields)
    attributes = Attributes(whole if whole.keys == dataset.keys else dataset)
    return descriptions(attributes, [keys[i] for i in some], cluster_N[some])


def _check_label(dataset: Dataset, label: str) -> None:
    if label not in dataset.labels:
        raise unknown("label", label, dataset.labels)
    if is_number(dataset.label(label)):
        raise AmodalError(
            f"the label {label!r} is a number, and clusters are compared with classes"
        )


def _scores(
    embedded: Embedded,
    label: str,
    column: Column,
    groups: Groups,
    simple: tuple[Tensor, np.ndarray] | None,
    seed: int,
) -> dict[str, tuple[float, float | None]]:
    truth = embedded.label(label)[column.rows.numpy()]
    here = known(truth)
    if not here.any():
        raise AmodalError(f"none of the clustered records has the label {label!r}")
    metrics = {"AMI": adjusted_mutual_information, "matched accuracy": matched_accuracy}
    scores = {
        name: metric(truth[here].astype(str), groups.cluster_N[here])
        for name, metric in metrics.items()
    }
    if simple is None:
        return {name: (value, None) for name, value in scores.items()}
    simple_ND, places = simple
    simple_n, some = _simple_fit(groups)(simple_ND, seed), here[places]
    classes = truth[places][some].astype(str)
    return {
        name: (value, metrics[name](classes, simple_n[some]) if some.any() else None)
        for name, value in scores.items()
    }
