"""Gradients of several losses that pull apart, and what is left of them when each gives way to the
others.

Wu et al. 2022, arXiv:2211.02077, "cross-modality gradient realignment"; projection of conflicting
gradients after Yu et al. 2020 (PCGrad), arXiv:2001.06782, here always from the original gradients
and without random order.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def shared(a_P: Tensor, b_P: Tensor) -> Tensor:
    """(P,) bool: what both gradients move. A parameter that a loss does not reach has a gradient of
    exactly zero."""
    return (a_P != 0) & (b_P != 0)


def cosine(a_P: Tensor, b_P: Tensor) -> Tensor:
    """() the cosine of two gradients over what both move; 0 where that is nothing."""
    both = shared(a_P, b_P)
    a, b = a_P * both, b_P * both
    return a @ b / (a.norm() * b.norm()).clamp_min(torch.finfo(a.dtype).tiny)


def cosines(gradients: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """Every two of the gradients -> their cosine."""
    return {
        (x, y): cosine(gradients[x], gradients[y]) for x, y in itertools.combinations(gradients, 2)
    }


def row_cosines(gradients: Sequence[Tensor]) -> Tensor:
    """(N,) for each row the lowest cosine of two of its gradients, (N, D) each, that are not zero;
    1 where there are no two."""
    lowest = gradients[0].new_ones(len(gradients[0]))
    for g, h in itertools.combinations(gradients, 2):
        norms = g.norm(dim=1) * h.norm(dim=1)
        c = (g * h).sum(1) / norms.clamp_min(torch.finfo(g.dtype).tiny)
        lowest = torch.where(norms > 0, torch.minimum(lowest, c), lowest)
    return lowest


def realign(gradients: dict[str, Tensor]) -> Tensor:
    """(P,) the sum of the gradients, each less its part along every other that it conflicts with:
    where <g, h> < 0 over what both move, g - <g, h> / |h|^2 h. All from the gradients as they were,
    so their order does not matter; without a conflict, the plain sum."""
    total = torch.stack(list(gradients.values())).sum(0)
    for a, b in itertools.combinations(gradients.values(), 2):
        both = shared(a, b)
        g, h = a * both, b * both
        inner = (g @ h).clamp(max=0)
        for one in (g, h):
            total = total - inner / (one @ one).clamp_min(torch.finfo(one.dtype).tiny) * one
    return total
