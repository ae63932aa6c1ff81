"""The nearest other record of each, and groups of records that are near each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor

from amodal.core import AmodalError, unknown
from amodal.evaluate.linkage import single_linkage

LINKAGES = ("single", "average", "complete")
MAX_AGGLOMERATIVE = 5000
"""Records whose pairs fit into memory."""
TILE = 1024


@dataclass(frozen=True)
class Nearest:
    """The nearest key of each of N queries.

    Args:
        index: (N,) int64 keys, -1 where there is none.
        score: (N,) similarity to it, NaN where there is none.
        margin: (N,) by how much the second is less similar, NaN without a second.
        mutual: (N,) bool, whether the query is the nearest of its key too.
    """

    index: np.ndarray
    score: np.ndarray
    margin: np.ndarray
    mutual: np.ndarray


def nearest_of(query_ND: Tensor, key_MD: Tensor | None) -> Nearest:
    """Compare unit vectors.

    Args:
        query_ND: Of the queries.
        key_MD: Of the keys; None for the queries themselves, each compared with the others.
    """
    keys = query_ND if key_MD is None else key_MD
    best, second, index = [], [], []
    of_key = torch.full((len(keys),), -2.0), torch.full((len(keys),), -1)
    for start in range(0, len(query_ND), TILE):
        product = query_ND[start : start + TILE] @ keys.T
        rows = torch.arange(len(product))
        if key_MD is None:
            product[rows, start + rows] = -2.0
        top = product.topk(min(2, len(keys)), 1)
        best.append(top.values[:, 0])
        index.append(top.indices[:, 0])
        second.append(top.values[:, 1] if len(keys) > 1 else torch.full_like(best[-1], -2.0))
        column = product.max(0)
        better = column.values > of_key[0]
        of_key[0][better] = column.values[better]
        of_key[1][better] = start + column.indices[better]
    if not best:
        return Nearest(*(np.zeros(0, dtype=d) for d in (np.int64, float, float, bool)))
    return _nearest(torch.cat(index), torch.cat(best), torch.cat(second), of_key[1])


def _nearest(index: Tensor, best: Tensor, second: Tensor, of_key: Tensor) -> Nearest:
    none = best < -1.5  # a single record has no other
    score, margin = best.double().numpy().copy(), (best - second).double().numpy().copy()
    score[none.numpy()] = np.nan
    margin[(second < -1.5).numpy()] = np.nan
    mutual = of_key[index] == torch.arange(len(index))
    return Nearest(
        index=torch.where(none, -1, index).numpy(),
        score=score,
        margin=margin,
        mutual=(mutual & ~none).numpy(),
    )


def nearest_strings(similarity_NM: np.ndarray, *, itself: bool) -> Nearest:
    """The same of a matrix of similarities. itself: queries are the keys."""
    matrix = torch.from_numpy(similarity_NM.astype(np.float32)).clone()
    if itself:
        matrix.fill_diagonal_(-2.0)
    top = matrix.topk(min(2, matrix.shape[1]), 1)
    one = top.values[:, 0]
    second = top.values[:, 1] if matrix.shape[1] > 1 else torch.full_like(one, -2.0)
    return _nearest(top.indices[:, 0], one, second, matrix.argmax(0))


def groups_of(unit_ND: Tensor, threshold: float, linkage: str = "single") -> np.ndarray:
    """Groups of records by agglomerative clustering that stops at a similarity.

    Args:
        unit_ND: Unit vectors.
        threshold: Cosine below which groups are not joined.
        linkage: single (chains of cosines: connected components), average or complete.

    Returns:
        (N,) int64, from 0, in the order of their first record.

    Raises:
        AmodalError: For an unknown linkage, and too many records for one that needs all pairs.
    """
    check_linkage(linkage, len(unit_ND))
    if linkage == "single" or len(unit_ND) < 2:
        return single_linkage(unit_ND, threshold)
    distance = (1 - unit_ND @ unit_ND.T).clamp_min(0).double().numpy()
    label = AgglomerativeClustering(
        n_clusters=None,
        metric="precomputed",
        linkage=linkage,
        distance_threshold=max(1 - threshold + 1e-9, 0.0),  # a cosine of rounded vectors is over 1
    ).fit_predict(distance)
    _, first, place = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place]


def check_linkage(linkage: str, records: int) -> None:
    """Raises AmodalError for an unknown linkage, and too many records for one."""
    if linkage not in LINKAGES:
        raise unknown("linkage", linkage, LINKAGES)
    if linkage != "single" and records > MAX_AGGLOMERATIVE:
        raise AmodalError(
            f"{linkage} linkage needs all pairs of records, and {records:,} are more than "
            f"{MAX_AGGLOMERATIVE:,}; take single"
        )
