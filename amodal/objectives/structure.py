"""Structure preservation: keep each value's neighbourhood while a space is mapped onto another.

Gröger et al., NeurIPS 2025, arXiv:2506.16895, section 3.
"""

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
    """Divergence between neighbourhood distributions before and after a map, at each level.

        L = mean_l relu(JS_l - margin),  JS_l = mean_i JS(P_i^l || Q_i^l)
        P_i = softmax_j(x_i . x_j / temperature)

    JS is the Jensen-Shannon divergence in nats, x are unit vectors less their mean, j runs over
    all rows (i too), and Q is the same of the aligned vectors. The l-th power of P is the
    distribution after l hops.

    Args:
        original_NE, aligned_ND: the same N values before and after the map; the original gets no
            gradient.
        temperature: of both softmaxes.
        levels: number of hops.
        margin: a divergence up to this costs nothing.
        weight_by_level: divide level l by l.
        tile: rows of a block of P; changes memory and speed, not the result.

    Returns:
        A scalar. Fewer than two rows: 0, connected to `aligned_ND`.

    Raises:
        ValueError: lengths differ, or `levels` or `temperature` is not above 0.
    """
    check_positive("temperature", temperature)
    check_positive("levels", levels)
    if original_NE.dim() != 2 or aligned_ND.dim() != 2 or len(original_NE) != len(aligned_ND):
        raise ValueError(
            "structure_loss needs (N, E) and (N, D) of the same N values, got "
            f"{tuple(original_NE.shape)} and {tuple(aligned_ND.shape)}."
        )
    if len(aligned_ND) < 2:
        return connected_zero(aligned_ND)
    x, y = (_centred(z) for z in (original_NE.detach(), aligned_ND))

    def divergences(x_tE: Tensor, y_tD: Tensor) -> Tensor:
        """(t, levels)"""
        log_p, log_q = (
            (part @ z.T / temperature).log_softmax(1) for part, z in ((x_tE, x), (y_tD, y))
        )
        per_level = [_jensen_shannon(log_p, log_q)]
        for _ in range(levels - 1):
            log_p, log_q = (
                _next_hop(log.exp(), z, temperature, tile) for log, z in ((log_p, x), (log_q, y))
            )
            per_level.append(_jensen_shannon(log_p, log_q))
        return torch.stack(per_level, 1)

    level_losses = F.relu(by_rows(divergences, x, y, tile=tile).mean(0) - margin)
    return (
        (level_losses / torch.arange(1, levels + 1, device=level_losses.device)).mean()
        if weight_by_level
        else level_losses.mean()
    )


def _centred(z_ND: Tensor) -> Tensor:
    unit = F.normalize(z_ND, dim=1)
    return unit - unit.mean(0)


def _next_hop(p_tN: Tensor, z_ND: Tensor, temperature: float, tile: int) -> Tensor:
    """log(p P); P is computed block by block and never held whole."""

    def through(probabilities: Tensor, block: Tensor) -> Tensor:
        return probabilities @ (block @ z_ND.T / temperature).softmax(1)

    total = p_tN.new_zeros(())
    for probabilities, block in zip(p_tN.split(tile, 1), z_ND.split(tile)):
        total = total + checkpoint(
            through, probabilities, block, use_reentrant=False, preserve_rng_state=False
        )
    return total.clamp_min(torch.finfo(total.dtype).tiny).log()


def _jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    log_mixture = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_p.exp() * (log_p - log_mixture) + log_q.exp() * (log_q - log_mixture)).sum(1) / 2
