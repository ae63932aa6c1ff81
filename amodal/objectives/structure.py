"""Keep each value's neighbourhood while a space is mapped onto another. Gröger et al., NeurIPS
2025, arXiv:2506.16895, section 3."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from amodal.objectives.common import check_positive, connected_zero, full_precision
from amodal.objectives.tiles import by_rows


@full_precision
def structure_loss(
    original_NE: Tensor,
    aligned_ND: Tensor,
    *,
    temperature: float = 0.05,
    levels: int = 1,
    margin: float = 0.0,
    weight_by_level: bool = False,
    tile: int = 256,
) -> Tensor:
    """Mean over levels l of relu(JS_l - margin), JS_l the mean over rows of the Jensen-Shannon
    divergence (nats) of P^l and Q^l.

    P_i = softmax_j(x_i.x_j / temperature) over all rows j (i too), of unit vectors from which their
    mean was taken; Q the same of the aligned vectors. The l-th power of P says who is reached in l
    hops.

    original_NE, aligned_ND: the same N values before and after the map; no gradient goes to the
    original.
    temperature:     of both softmaxes.
    levels:          how many hops.
    margin:          a divergence that is let be.
    weight_by_level: divide level l by l.
    tile:            rows of a block of P; changes memory and speed, not the result.

    Fewer than two rows give a connected 0. Raises ValueError for unequal lengths, no level and a
    temperature that is not above 0.
    """
    check_positive("temperature", temperature)
    check_positive("levels", levels)
    if original_NE.dim() != 2 or aligned_ND.dim() != 2 or len(original_NE) != len(aligned_ND):
        raise ValueError(
            f"structure_loss needs (N, E) and (N, D) of the same N values, got {tuple(original_NE.shape)} and {tuple(aligned_ND.shape)}."
        )
    if len(aligned_ND) < 2:
        return connected_zero(aligned_ND)
    x, y = (_centred(z) for z in (original_NE.detach(), aligned_ND))

    def divergences(x_tE: Tensor, y_tD: Tensor) -> Tensor:
        """(t, levels)"""
        log_p, log_q = (
            (part @ z.T / temperature).log_softmax(1) for part, z in ((x_tE, x), (y_tD, y))
        )
        found = [_jensen_shannon(log_p, log_q)]
        for _ in range(levels - 1):
            log_p, log_q = (
                _hop(log.exp(), z, temperature, tile) for log, z in ((log_p, x), (log_q, y))
            )
            found.append(_jensen_shannon(log_p, log_q))
        return torch.stack(found, 1)

    each = F.relu(by_rows(divergences, x, y, tile=tile).mean(0) - margin)
    return (
        (each / torch.arange(1, levels + 1, device=each.device)).mean()
        if weight_by_level
        else each.mean()
    )


def _centred(z_ND: Tensor) -> Tensor:
    unit = F.normalize(z_ND, dim=1)
    return unit - unit.mean(0)


def _hop(p_tN: Tensor, z_ND: Tensor, temperature: float, tile: int) -> Tensor:
    """log(p P), P made again block by block, so that it is never whole."""

    def through(some: Tensor, block: Tensor) -> Tensor:
        return some @ (block @ z_ND.T / temperature).softmax(1)

    total = 0
    for some, block in zip(p_tN.split(tile, 1), z_ND.split(tile)):
        total = total + checkpoint(
            through, some, block, use_reentrant=False, preserve_rng_state=False
        )
    return total.clamp_min(torch.finfo(total.dtype).tiny).log()


def _jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_p.exp() * (log_p - middle) + log_q.exp() * (log_q - middle)).sum(1) / 2
