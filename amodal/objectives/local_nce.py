"""A vector of one view predicts the parts of another: every part a positive, all parts of other
rows negatives.

Bachman, Hjelm and Buchwalter, NeurIPS 2019, arXiv:1906.00910 (AMDIM): scores with a soft clip and a
penalty, and mixtures.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.bags import owners
from amodal.objectives.common import check_positive, connected_zero, full_precision
from amodal.objectives.square_sum import cross_square_sum
from amodal.objectives.tiles import by_rows


def soft_clip(scores: Tensor, bound: float) -> Tensor:
    """bound * tanh(scores / bound): the scores themselves near 0, and never beyond the bound. 0
    leaves them as they are."""
    return bound * torch.tanh(scores / bound) if bound else scores


@full_precision
def part_log_probabilities(
    source_ND: Tensor, parts_MD: Tensor, lengths_N: Tensor, *, bound: float = 20.0, tile: int = 256
) -> Tensor:
    """(M,) log( e^u / (e^u + sum over the parts of other rows of e^u') ): how surely each part's
    own row predicts it.

    source_ND:  a vector of each of N >= 2 rows; parts_MD, lengths_N: the parts of all rows end to
                end, and how many each row has.
    bound:      of the soft clip of scores u = <source, part> / sqrt(D), 0 for none. tile: rows at
                once; memory, not the result.
    """
    row = owners(lengths_N)
    scale = source_ND.shape[1] ** -0.5
    own = soft_clip((source_ND[row] * parts_MD).sum(1) * scale, bound)

    def others(source_tD: Tensor, number_t: Tensor) -> Tensor:
        scores = soft_clip(source_tD @ parts_MD.T * scale, bound)
        return scores.masked_fill(number_t[:, None] == row, -math.inf).logsumexp(1)

    number = torch.arange(len(source_ND), device=row.device)
    return -F.softplus(by_rows(others, source_ND, number, tile=tile)[row] - own)


@full_precision
def local_nce(
    source_NKD: Tensor,
    parts_MD: Tensor,
    lengths_N: Tensor,
    *,
    bound: float = 20.0,
    sharpness: float = 1.0,
    tile: int = 256,
) -> tuple[Tensor, Tensor]:
    """(loss, penalty). loss: minus the mean over rows of the mean log probability of their parts;
    penalty: the mean squared raw score.

    source_NKD: K vectors of each row, or (N, D) for one. With several, each part is predicted by
    the mixture of them whose weights are
        softmax_k(sharpness * log probability), which are those that maximise sum_k q_k log p_k +
        H(q) / sharpness; the loss is minus that maximum, less the log(K) / sharpness that K equal
        ones have.
    parts_MD, lengths_N, bound, tile: as in `part_log_probabilities`; every row has at least one
    part.

    One row or none gives two connected zeros. First derivatives only. Raises ValueError for shapes
    that do not fit.
    """
    check_positive("sharpness", sharpness)
    source = source_NKD[:, None] if source_NKD.dim() == 2 else source_NKD
    if source.dim() != 3 or len(source) != len(lengths_N) or source.shape[2] != parts_MD.shape[1]:
        raise ValueError(
            f"local_nce needs (N, D) or (N, K, D) sources, (M, D) parts and N lengths, got {tuple(source_NKD.shape)}, "
            f"{tuple(parts_MD.shape)} and {tuple(lengths_N.shape)}."
        )
    n, k, d = source.shape
    if n < 2:
        return connected_zero(source, parts_MD), connected_zero(source, parts_MD)
    each = [
        part_log_probabilities(s.contiguous(), parts_MD, lengths_N, bound=bound, tile=tile)
        for s in source.unbind(1)
    ]
    log_M = (
        each[0]
        if k == 1
        else ((sharpness * torch.stack(each)).logsumexp(0) - math.log(k)) / sharpness
    )
    by_row = log_M.new_zeros(n).index_add(0, owners(lengths_N), log_M) / lengths_N
    squares = cross_square_sum(source.reshape(n * k, d).T.contiguous(), parts_MD.T.contiguous())
    return -by_row.mean(), squares / (d * n * k * len(parts_MD))


@torch.no_grad()
@full_precision
def mixture_weights(
    source_NKD: Tensor,
    parts_MD: Tensor,
    lengths_N: Tensor,
    *,
    bound: float = 20.0,
    sharpness: float = 1.0,
) -> Tensor:
    """(M, K): which of a row's K vectors predicts each of its parts, weights that sum to one. Laid
    over a picture they segment it."""
    each = [
        part_log_probabilities(s.contiguous(), parts_MD, lengths_N, bound=bound)
        for s in source_NKD.unbind(1)
    ]
    return (sharpness * torch.stack(each, 1)).softmax(1)
