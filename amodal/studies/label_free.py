"""Scores of a trial that need no labels, of its training records."""

from __future__ import annotations

from statistics import mean

import torch

from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.data.loader import Loader
from amodal.diagnose.label_free import label_free_scores, lidar
from amodal.inference.embed import Embedded, device_of
from amodal.inference.forward_passes import AnyEncoder, eval_mode
from amodal.studies.limits import Check

VIEWS = 8
RECORDS = 256
"""Of LiDAR. The paper has 50 views of 1,000 records, for ImageNet; its ranking is stable from far
fewer on (their figure on the number of views), and each costs a forward pass."""


def label_free(
    encoder: AnyEncoder, dataset: Dataset, train: Embedded, seed: int, check: Check
) -> dict[str, float]:
    """RankMe, alpha and LiDAR, means over the fields.

    Args:
        encoder: In evaluation mode.
        dataset: With the encoder's fields.
        train: Its embedded training records.
        seed: Of the augmentations.
        check: Called between batches.
    """
    found: dict[str, list[float]] = {}
    for source in train.features.sources:
        z = vectors_of(train.features[source]).float()
        if len(z) < 2:
            continue
        for name, value in label_free_scores(z).items():
            found.setdefault(name, []).append(value)
    for value in _lidar(encoder, dataset, seed, check):
        found.setdefault("LiDAR", []).append(value)
    return {name: round(mean(values), 4) for name, values in found.items()}


@torch.no_grad()
def _lidar(encoder: AnyEncoder, dataset: Dataset, seed: int, check: Check) -> list[float]:
    """LiDAR of each field, of the records that have all its views."""
    rows = dataset.split("train")[:RECORDS]
    loader = Loader(dataset, rows, batch=64, views=("strong",) * VIEWS, seed=seed, shuffle=False)
    views: dict[str, list[torch.Tensor]] = {}
    device = device_of(encoder)
    with eval_mode(encoder):
        for batch in loader:
            check()
            z = encoder(batch.to(device))
            for field in dataset.fields:
                names = [name for name in z.sources if loader.sources.get(name) == field]
                if len(names) == VIEWS:
                    _, columns = z.complete(names)
                    views.setdefault(field, []).append(torch.stack(columns, 1).float().cpu())
    stacked = [torch.cat(parts) for parts in views.values()]
    return [lidar(z) for z in stacked if len(z) > 1]
