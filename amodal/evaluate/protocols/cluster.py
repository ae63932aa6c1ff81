"""Zero-shot clustering: do frozen features fall into the classes that people gave, without a label
seen?

Ward's agglomeration of unit vectors into as many clusters as there are classes, judged by adjusted
mutual information; after Lowe et al. 2024 (arXiv:2406.02465), as used by BIOSCAN-5M
(arXiv:2406.12723). There UMAP comes first, which is left out here. With `number` "coding length"
nobody says how many: spectral clusters of a doubly stochastic membership, of the number that takes
fewest bits (Chu et al. 2024, arXiv:2306.05272), and each row says how many that are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal.core import Column, unknown
from amodal.evaluate.labels import NotApplicable, is_number
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
    """Adjusted mutual information with the label, of the test records that have it: for each field,
    and for all fields side by side ("a+b") of the records that have them all. Reads the features.

    most: records at most, chosen by `seed`: it costs their square. sources: fields, all unless
    given. number: of clusters, "classes" or "coding length", of 2 to `most_clusters`; the latter
    also of vectors in the aligned space ("SOURCE, aligned"). `train` is not used.
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
        at, vectors = test.features.complete(fields)
        columns["+".join(fields)] = Column(
            torch.cat([normalize(v.float(), dim=1) for v in vectors], 1), at
        )
    if number != "classes":
        columns |= {f"{s}, aligned": test.aligned[s] for s in test.aligned if s in fields}
    rows = []
    for source, column in columns.items():
        at = np.flatnonzero(known(labels)[column.rows.numpy()])
        at = np.sort(np.random.default_rng(seed).permutation(at)[:most])
        truth = labels[column.rows.numpy()[at]].astype(str)
        classes = len(np.unique(truth))
        if not 1 < classes < len(truth):
            continue
        vectors = normalize(column.values[torch.from_numpy(at)].float(), dim=1)
        if number == "classes":
            found = ward(vectors.numpy(), classes)
        else:
            every = self_labels(
                vectors, range(2, min(most_clusters, len(truth) - 1) + 1), seed=seed
            )
            found = every.clusters[every.number]
        value = adjusted_mutual_information(truth, found)
        row = {"source": source, "metric": "AMI", "value": value, "chance": 0.0, "n": len(truth)}
        rows.append(row | {"clusters": len(np.unique(found))})
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

    name, needs = "cluster", (LABEL,)
    rank = 50
    measure = staticmethod(cluster)


PROTOCOL = Cluster()
