"""Vectors on a plane: UMAP, or the first two principal components."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

AMONG = 3
"""Neighbours that give a row its place."""
TILE = 2048
"""Rows that are compared at once."""


def project_2d(x_ND: Tensor, projection: str) -> np.ndarray:
    """(N, 2) float32 in 0 to 1: "umap" of unit vectors where there are enough of them, else the
    first two principal components."""
    unit = normalize(x_ND.float(), dim=1)
    if projection == "umap" and len(unit) > 50:
        import umap

        found = torch.from_numpy(
            umap.UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(unit.numpy())
        )
    else:
        found = pca_2d(unit)
    low, high = found.amin(0), found.amax(0)
    return ((found - low) / (high - low).clamp_min(1e-9)).float().numpy()


def among_nearest(x_ND: Tensor, fitted_N: Tensor, place_M2: np.ndarray) -> np.ndarray:
    """Places of all rows, of which some have one: each other one lies at the mean place of the rows
    that it is most similar to.

    Args:
        x_ND: Unit vectors.
        fitted_N: bool, which rows have a place.
        place_M2: Theirs, in their order.

    Returns:
        (N, 2) float32.
    """
    fitted_MD, place = x_ND[fitted_N], torch.from_numpy(place_M2)
    found = torch.empty(len(x_ND), 2)
    found[fitted_N] = place
    for rows in torch.nonzero(~fitted_N).flatten().split(TILE):
        nearest = (x_ND[rows] @ fitted_MD.T).topk(min(AMONG, len(fitted_MD)), sorted=False).indices
        found[rows] = place[nearest].mean(1)
    return found.numpy()


def pca_2d(x_ND: Tensor) -> Tensor:
    """(N, 2): coordinates along the two directions in which rows differ most; each is turned so
    that its largest entry is positive."""
    x = x_ND - x_ND.mean(0)
    _, axes = torch.linalg.eigh(x.T @ x)
    axes = axes[:, -2:].flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    found = x @ (axes * largest.sign())
    return found if found.shape[1] == 2 else pad(found, (0, 2 - found.shape[1]))


def best_projection() -> str:
    """What is installed: "umap", else "pca"."""
    return "umap" if find_spec("umap") is not None else "pca"
