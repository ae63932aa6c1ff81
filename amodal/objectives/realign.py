"""Conflicting gradients of two or more losses, measured and projected away.

Wu et al. 2022, arXiv:2211.02077, "cross-modality gradient realignment"; projection of conflicting
gradients after Yu et al. 2020 (PCGrad), arXiv:2001.06782, here always from the original gradients
and without random order.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def both_nonzero(a_P: Tensor, b_P: Tensor) -> Tensor:
    """(P,) bool: parameters that both gradients reach. A loss has gradient 0 exactly elsewhere."""
    return (a_P != 0) & (b_P != 0)


def cosine(a_P: Tensor, b_P: Tensor) -> Tensor:
    """Cosine () of two gradients over the parameters that both reach; 0 where there are none."""
    both = both_nonzero(a_P, b_P)
    a, b = a_P * both, b_P * both
    norms: Tensor = a.norm() * b.norm()
    return a @ b / norms.clamp_min(torch.finfo(a.dtype).tiny)


def cosines(gradients: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """Cosine of every pair of gradients, by the pair of names."""
    return {
        (x, y): cosine(gradients[x], gradients[y]) for x, y in itertools.combinations(gradients, 2)
    }


def row_cosines(gradients: Sequence[Tensor]) -> Tensor:
    """(N,) lowest cosine between two gradients of each row; 1 where fewer than two are nonzero.

    Args:
        gradients: (N, D) each.
    """
    lowest = gradients[0].new_ones(len(gradients[0]))
    for g, h in itertools.combinations(gradients, 2):
        norms = g.norm(dim=1) * h.norm(dim=1)
        c = (g * h).sum(1) / norms.clamp_min(torch.finfo(g.dtype).tiny)
        lowest = torch.where(norms > 0, torch.minimum(lowest, c), lowest)
    return lowest


def realign(gradients: dict[str, Tensor]) -> Tensor:
    """Sum of the gradients, each less its projection on every other one that it conflicts with.

        g <- g - <g, h> / |h|^2 h  where <g, h> < 0, over the parameters that both reach

    All from the original gradients, so the order does not matter. Without a conflict, the sum.

    Args:
        gradients: name of a loss -> (P,).

    Returns:
        (P,)
    """
    total = torch.stack(list(gradients.values())).sum(0)
    for a, b in itertools.combinations(gradients.values(), 2):
        both = both_nonzero(a, b)
        g, h = a * both, b * both
        inner = (g @ h).clamp(max=0)
        for direction in (g, h):
            total = (
                total
                - inner
                / (direction @ direction).clamp_min(torch.finfo(direction.dtype).tiny)
                * direction
            )
    return total
