"""Zero-shot clustering: do frozen features fall into the classes that people gave, without a label seen?

Ward's agglomeration of unit vectors into as many clusters as there are classes, judged by adjusted mutual information; after Lowe et
al. 2024 (arXiv:2406.02465), as used by BIOSCAN-5M (arXiv:2406.12723). There UMAP comes first, which is left out here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal.core import Column
from amodal.evaluate._clusters import adjusted_mutual_information, ward
from amodal.evaluate._embedded import Embedded, known
from amodal.evaluate._labels import NotApplicable, is_number
from amodal.evaluate._result import Result


def cluster(
    train: Embedded | None,
    test: Embedded,
    *,
    label: str,
    most: int = 2000,
    seed: int = 0,
    sources: Sequence[str] | None = None,
) -> Result:
    """Adjusted mutual information with the label, of the test records that have it: for each sense, and for all senses side by side
    ("a+b") of the records that have them all. Reads the features.

    most: records at most, chosen by `seed`: it costs their square. sources: senses, all unless given. `train` is not used.
    """
    labels = test.label(label)
    if is_number(labels):
        raise NotApplicable(f"the label {label!r} is a number, and clusters are compared with classes")
    senses = [s for s in test.features.sources if sources is None or s in sources]
    columns = {s: test.features[s] for s in senses}
    if len(senses) > 1:
        at, vectors = test.features.complete(senses)
        columns["+".join(senses)] = Column(torch.cat([normalize(v.float(), dim=1) for v in vectors], 1), at)
    rows = []
    for source, column in columns.items():
        at = np.flatnonzero(known(labels)[column.rows.numpy()])
        at = np.sort(np.random.default_rng(seed).permutation(at)[:most])
        truth = labels[column.rows.numpy()[at]].astype(str)
        classes = len(np.unique(truth))
        if not 1 < classes < len(truth):
            continue
        found = ward(normalize(column.values[torch.from_numpy(at)].float(), dim=1).numpy(), classes)
        value = adjusted_mutual_information(truth, found)
        rows.append({"source": source, "metric": "AMI", "value": value, "chance": 0.0, "n": len(truth)})
    if not rows:
        raise NotApplicable(f"the test records have no two classes of {label!r} with more than a record each")
    spec = {"label": label, "kind": "category", "linkage": "ward", "most": most, "seed": seed}
    return Result("cluster", spec | {"space": "features", "test": len(test)}, rows)
