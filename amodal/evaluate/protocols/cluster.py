"""Zero-shot clustering: whether frozen features fall into classes without any label.

Ward's agglomeration of unit vectors into as many clusters as there are classes, scored by adjusted
mutual information; after Lowe et al. 2024 (arXiv:2406.02465), as used by BIOSCAN-5M
(arXiv:2406.12723). There UMAP comes first, which is left out here.

With `number` "coding length" the number of clusters is not given: spectral clusters of a doubly
stochastic membership, of the number with the shortest code (Chu et al. 2024, arXiv:2306.05272).
Each row says how many these are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal.core import Column, unknown
from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.labels import NotApplicable, is_number
from amodal.evaluate.needed_records import labelled, no_record
from amodal.evaluate.needs import LABEL
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.self_labels import self_labels
from amodal.inference.embed import Embedded, known
from amodal.stats.clustering import adjusted_mutual_information, ward

NUMBERS = ("classes", "coding length")


def cluster(
    train: Embedded | None,
    test: Embedded,
    *,
    label: str,
    most: int = 2000,
    seed: int = 0,
    sources: Sequence[str] | None = None,
    number: str = "classes",
    most_clusters: int = 30,
) -> Result:
    """Cluster test records and compare the clusters with a label.

    Clustered are the features of each field, and of all fields concatenated ("a+b") for the records
    that have all.

    Args:
        train: Not used.
        test: Test records.
        label: The classes.
        most: Records at most, chosen by `seed`. The cost is their square.
        seed: Of that choice and of k-means.
        sources: Fields, all unless set.
        number: Of clusters: "classes" or "coding length". The latter also clusters vectors of the
            aligned space ("SOURCE, aligned").
        most_clusters: The largest number that "coding length" tries, from 2 on.

    Raises:
        NotApplicable: If the label is a number, or has no two classes.
        AmodalError: For an unknown `number`.
    """
    if number not in NUMBERS:
        raise unknown("number of clusters", number, NUMBERS)
    labels = test.label(label)
    if is_number(labels):
        raise NotApplicable(
            f"the label {label!r} is a number, and clusters are compared with classes"
        )
    fields = [s for s in test.features.sources if sources is None or s in sources]
    columns = {s: test.features[s] for s in fields}
    if len(fields) > 1:
        complete, parts = test.features.complete(fields)
        concatenated = torch.cat([normalize(v.float(), dim=1) for v in parts], 1)
        columns["+".join(fields)] = Column(concatenated, complete)
    if number != "classes":
        columns |= {f"{s}, aligned": test.aligned[s] for s in test.aligned if s in fields}
    rows = []
    for source, column in columns.items():
        labelled = np.flatnonzero(known(labels)[column.rows.numpy()])
        chosen = np.sort(np.random.default_rng(seed).permutation(labelled)[:most])
        truth = labels[column.rows.numpy()[chosen]].astype(str)
        classes = len(np.unique(truth))
        if not 1 < classes < len(truth):
            continue
        vectors = normalize(vectors_of(column)[torch.from_numpy(chosen)].float(), dim=1)
        if number == "classes":
            clusters = ward(vectors.numpy(), classes)
        else:
            numbers = range(2, min(most_clusters, len(truth) - 1) + 1)
            divisions = self_labels(vectors, numbers, seed=seed)
            clusters = divisions.clusters[divisions.number]
        value = adjusted_mutual_information(truth, clusters)
        row = {"source": source, "metric": "AMI", "value": value, "chance": 0.0, "n": len(truth)}
        rows.append(row | {"clusters": len(np.unique(clusters))})
    if not rows:
        raise NotApplicable(
            f"the test records have no two classes of {label!r} with more than a record each"
        )
    linkage = "ward" if number == "classes" else "spectral"
    spec = {
        "label": label,
        "kind": "category",
        "linkage": linkage,
        "number": number,
        "most": most,
        "seed": seed,
    }
    return Result("cluster", spec | {"space": "features", "test": len(test)}, rows)


class Cluster(Protocol):
    """Clusters against classes."""

    name, needs, needed = "cluster", (LABEL,), (no_record, labelled)
    rank = 50
    measure = staticmethod(cluster)


PROTOCOL = Cluster()
