"""Features of the points of one cloud, from those of its tokens.

As PointNet++ propagates features to points (Qi et al., NeurIPS 2017, arXiv:1706.02413, section
3.4): the mean of the three nearest tokens, by inverse squared distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch

from amodal.core import Batch, Column
from amodal.core.matmul import fast_products
from amodal.inference.forward_passes import eval_mode
from amodal.modalities.shared.points_values import Placed
from amodal.nn.encoder import Encoder
from amodal.nn.patch_vectors import patch_features

NEAREST = 3
CHUNK = 2**16
"""Points whose features are held in memory together."""
EPS = 1e-8
"""Added to squared distances, as there."""


@fast_products()
@torch.no_grad()
def point_features(
    encoder: Encoder, name: str, placed: Placed, device: torch.device | str = "cpu"
) -> Iterator[tuple[slice, np.ndarray]]:
    """Features of every point of a file.

    Args:
        encoder: What embeds.
        name: Of a field of points.
        placed: See `HasPoints.place_points`.
        device: Where the encoder is.

    Yields:
        Which points, and their features (m, D) float32.
    """
    column = Column(encoder.fields[name].collate([placed.value]), torch.zeros(1, dtype=torch.int64))
    with eval_mode(encoder):
        tokens = patch_features(encoder, Batch.of(1, {name: column}).to(device), name)
    x_TD = tokens.x.float().cpu().numpy()
    centre_TP = tokens.position.cpu().numpy()
    for start in range(0, len(placed.position), CHUNK):
        part = slice(start, min(start + CHUNK, len(placed.position)))
        yield part, interpolated(placed.position[part], centre_TP, x_TD)


def interpolated(place_NP: np.ndarray, centre_TP: np.ndarray, x_TD: np.ndarray) -> np.ndarray:
    """Means of the vectors of the nearest centres, by inverse squared distance.

    Args:
        place_NP: (N, 3), where vectors are wanted.
        centre_TP: (T, 3), where they are.
        x_TD: (T, D).

    Returns:
        (N, D) float32.
    """
    from scipy.spatial import cKDTree

    count = min(NEAREST, len(centre_TP))
    distance, index = cKDTree(centre_TP).query(place_NP, k=[*range(1, count + 1)])
    weight = 1 / (np.square(distance) + EPS)
    weight = weight / weight.sum(1, keepdims=True)
    return cast(np.ndarray, np.einsum("nk,nkd->nd", weight, x_TD[index]).astype(np.float32))
