"""How many dimensions of a space its vectors use."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Embeddings
from amodal.core.embeddings import vectors as vectors_of


def singular_values(z_ND: Tensor) -> Tensor:
    """Singular values, largest first.

    From the smaller of the two Gram matrices, so linear in the larger of N and D.

    Args:
        z_ND: Vectors.

    Returns:
        (min(N, D),) float64.
    """
    z = z_ND.double()
    gram = z.T @ z if len(z) > z.shape[1] else z @ z.T
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.clamp_min(0).sqrt().flip(0)


def effective_rank(z_ND: Tensor) -> Tensor:
    """RankMe: the exponential of the entropy of the singular values (Garrido et al. 2023,
    arXiv:2210.02885, eq. 1).

    As in the paper the vectors are not centred. Centre them before if a common offset should not
    count as a dimension.

    Args:
        z_ND: Vectors.

    Returns:
        (): between 1 (all vectors on a line) and min(N, D); 0 for no vectors and for zeros only.
    """
    if z_ND.numel() == 0:
        return torch.zeros((), dtype=torch.float64)
    values = singular_values(z_ND)
    share = values / values.sum().clamp_min(torch.finfo(torch.float64).tiny)
    entropy: Tensor = torch.special.entr(share).sum()
    return share.sum() * entropy.exp()


def deviations(z_ND: Tensor) -> Tensor:
    """The standard deviation of each dimension of the unit vectors, times sqrt(D) (Chen & He 2021,
    arXiv:2011.10566, section 4.1).

    Args:
        z_ND: Vectors.

    Returns:
        (D,): 1 everywhere if they are spread evenly, 0 where a dimension has collapsed.
    """
    unit = normalize(z_ND.float(), dim=1)
    return unit.std(0, correction=0) * math.sqrt(z_ND.shape[1])


def spectrum(embeddings: Embeddings) -> list[dict[str, str | float]]:
    """One row for each source: its vectors n, width, effective rank of the centred vectors, mean
    and least deviation."""
    rows: list[dict[str, str | float]] = []
    for source, column in embeddings.columns.items():
        z = vectors_of(column).float()
        if len(z) < 2:
            continue
        spread = deviations(z)
        rows.append(
            {
                "source": source,
                "n": len(z),
                "width": z.shape[1],
                "rank": float(effective_rank(z - z.mean(0))),
                "std": float(spread.mean()),
                "least std": float(spread.min()),
            }
        )
    return rows
