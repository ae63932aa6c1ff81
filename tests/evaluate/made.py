"""Embedded records whose truth is known."""

import numpy as np
import torch

from amodal.core import Column, Embeddings
from amodal.evaluate import Embedded

CLASSES = np.array(["bird", "cat", "dog"], dtype=object)


def made(
    n=300,
    *,
    seed=0,
    width=16,
    noise=0.6,
    share=1.0,
    sources=("image", "sound"),
    unaligned=(),
    names=CLASSES,
):
    """n records of three classes; every source sees the record's own vector plus noise, in a
    rotated space if it is `unaligned`, and is there in a `share` of the records."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)
    centres = fixed.normal(0, 1, (len(names), width)) * 1.5
    turns = {s: np.linalg.qr(fixed.normal(0, 1, (width, width)))[0] for s in sources}
    label = rng.integers(0, len(names), n)
    own = centres[label] + rng.normal(0, 1, (n, width))
    columns = {}
    for source in sources:
        x = own + rng.normal(0, noise, own.shape)
        x = x @ turns[source] if source in unaligned else x
        rows = np.sort(rng.permutation(n)[: round(share * n)])
        columns[source] = Column(torch.tensor(x[rows], dtype=torch.float32), torch.from_numpy(rows))
    embeddings = Embeddings(columns, n)
    labels = {
        "kind": names[label],
        "size": own[:, 0] * 2 + 1,
        "none": np.full(n, None, dtype=object),
    }
    return Embedded([f"r{seed}-{i}" for i in range(n)], embeddings, embeddings, labels)
