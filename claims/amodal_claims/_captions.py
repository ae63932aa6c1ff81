"""Pictures and their captions, small: what several claims measure on Tux Paint's stamps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal.data import Dataset
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.methods.contract import Method

FIELDS = ("image", "caption")


def small(dataset: Dataset, size: int = 32) -> Dataset:
    """Images of `size` pixels in 16 patches, captions in tokens of 4 bytes."""
    both = dataset.select(FIELDS)
    image, caption = (both.fields[s] for s in FIELDS)
    return both.with_fields(
        {"image": replace(image, size=size, patch=size // 4), "caption": replace(caption, patch=4)}
    )


def halves(dataset: Dataset, seed: int, train: int = 700) -> tuple[np.ndarray, np.ndarray]:
    """A division of the records into `train` to learn from and the rest: another one for each seed."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    return np.sort(order[:train]), np.sort(order[train:])


def zero_shot(
    method: Method,
    dataset: Dataset,
    train: Sequence[int],
    test: Sequence[int],
    label: str = "category",
) -> float:
    """Accuracy of calling each test picture after the category whose mean caption lies nearest. The
    prompts of a category are the captions of its training records; no picture's category is used.
    """
    captions = embed_records(method.encoder, dataset, train, labels=False).aligned["caption"]
    images = embed_records(method.encoder, dataset, test, labels=False).aligned["image"]
    names, of = np.unique(dataset.label(label)[train].astype(str), return_inverse=True)
    total = torch.zeros(len(names), captions.values.shape[1])
    total.index_add_(
        0, torch.from_numpy(of)[captions.rows], normalize(captions.values.float(), dim=1)
    )
    found = names[
        (normalize(images.values.float(), dim=1) @ normalize(total, dim=1).T).argmax(1).numpy()
    ]
    return float((found == dataset.label(label)[test][images.rows.numpy()]).mean())


def recall(method: Method, dataset: Dataset, rows: Sequence[int], k: int = 10) -> float:
    """Recall@k between picture and caption, mean of both directions."""
    found = retrieval(None, embed_records(method.encoder, dataset, rows), recall_at=(k,)).rows
    return float(np.mean([row["value"] for row in found if row["metric"] == f"recall@{k}"]))
