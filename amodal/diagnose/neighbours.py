"""Agreement of two spaces on nearest neighbours, and the pair of layers where it is largest.

Huh et al., ICML 2024, arXiv:2405.07987, section 3 and appendix A; for choosing the layers to align:
Gröger et al., NeurIPS 2025, arXiv:2506.16895.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize


@torch.no_grad()
def nearest(z_ND: Tensor, k: int, *, tile: int = 1024) -> Tensor:
    """The nearest neighbours of each row by cosine, without the row itself.

    Args:
        z_ND: Vectors.
        k: Neighbours.
        tile: Rows compared at once.

    Returns:
        (N, k) int64.

    Raises:
        ValueError: Unless 1 <= k < N.
    """
    if not 1 <= k < len(z_ND):
        raise ValueError(
            "k neighbours need more than k rows and k at least 1, "
            f"got k = {k} and {len(z_ND)} rows."
        )
    unit = normalize(z_ND.float(), dim=1)
    neighbours = []
    for start in range(0, len(unit), tile):
        cosine = unit[start : start + tile] @ unit.T
        cosine.diagonal(start).fill_(-2)  # below every cosine
        neighbours.append(cosine.topk(k, dim=1).indices)
    return torch.cat(neighbours)


def mutual_knn(a_ND: Tensor, b_NE: Tensor, *, k: int = 10) -> float:
    """The mean share of a row's k neighbours in one space that are among its k in the other.

    Args:
        a_ND: Vectors of N rows.
        b_NE: Vectors of the same rows in another space of any width.
        k: Neighbours.

    Returns:
        0 to 1; k / (N - 1) by chance.
    """
    return _overlap(nearest(a_ND, k), nearest(b_NE, k))


def layer_agreement(a: Sequence[Tensor], b: Sequence[Tensor], *, k: int = 10) -> Tensor:
    """`mutual_knn` of every two layers.

    Args:
        a: For each layer, (N, D) vectors.
        b: The same for another network and the same N rows.
        k: Neighbours.

    Returns:
        (layers of a, layers of b).
    """
    near_a, near_b = ([nearest(z, k) for z in layers] for layers in (a, b))
    return torch.tensor([[_overlap(x, y) for y in near_b] for x in near_a])


def most_alike(agreement: Tensor) -> tuple[int, int]:
    """The pair of layers that agree most; the later ones of equals."""
    flat = agreement.flip(0, 1)
    row, column = divmod(int(flat.argmax()), flat.shape[1])
    return agreement.shape[0] - 1 - row, agreement.shape[1] - 1 - column


def _overlap(a_Nk: Tensor, b_Nk: Tensor) -> float:
    """The mean share of common neighbours."""
    shared = [len(set(x) & set(y)) for x, y in zip(a_Nk.tolist(), b_Nk.tolist())]
    return sum(shared) / a_Nk.numel()
