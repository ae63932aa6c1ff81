"""A global vector of one view predicts the local parts of another view.

Every part of the row is a positive, all parts of other rows are negatives. Bachman, Hjelm and
Buchwalter, NeurIPS 2019, arXiv:1906.00910 (AMDIM): soft-clipped scores with a penalty, mixtures.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision
from amodal.objectives.packed import row_index
from amodal.objectives.square_sum import cross_square_sum
from amodal.objectives.tiles import by_rows


def soft_clip(scores: Tensor, bound: float) -> Tensor:
    """bound * tanh(scores / bound): identity near 0, never beyond the bound. 0 for no bound."""
    return bound * torch.tanh(scores / bound) if bound else scores


@full_precision
def part_log_probabilities(
    source_ND: Tensor, parts_MD: Tensor, lengths_N: Tensor, *, bound: float = 20.0, tile: int = 256
) -> Tensor:
    """Log-probability of each part, given the global vector of its row.

        log p_m = log( e^{u_m} / (e^{u_m} + sum_{parts m' of other rows} e^{u_m'}) )
        u = soft_clip(<source, part> / sqrt(D))

    Args:
        source_ND: a vector for each of N >= 2 rows.
        parts_MD: the parts of all rows, packed.
        lengths_N: number of parts of each row.
        bound: of the soft clip; 0 for none.
        tile: rows at a time; changes memory, not the result.

    Returns:
        (M,)
    """
    owner_M = row_index(lengths_N)
    scale = source_ND.shape[1] ** -0.5
    positive = soft_clip((source_ND[owner_M] * parts_MD).sum(1) * scale, bound)

    def negatives(source_tD: Tensor, index_t: Tensor) -> Tensor:
        scores = soft_clip(source_tD @ parts_MD.T * scale, bound)
        return scores.masked_fill(index_t[:, None] == owner_M, -math.inf).logsumexp(1)

    index = torch.arange(len(source_ND), device=owner_M.device)
    # -softplus(log sum of negatives - u) = log(e^u / (e^u + sum))
    return -F.softplus(by_rows(negatives, source_ND, index, tile=tile)[owner_M] - positive)


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
    """Loss and penalty of AMDIM, with one or K vectors a row.

        L = -mean_rows mean_parts log p,  penalty = mean <source, part>^2 / D

    With K vectors each part is predicted by their mixture, q = softmax_k(sharpness log p_k).
    These weights maximise sum_k q_k log p_k + H(q) / sharpness. The loss is minus that maximum,
    less the log(K) / sharpness of K equal vectors. First derivatives only.

    Args:
        source_NKD: K vectors of each row, or (N, D) for one.
        parts_MD, lengths_N, bound, tile: as in `part_log_probabilities`; every row has at least
            one part.
        sharpness: of the mixture.

    Returns:
        Two scalars. Fewer than two rows: zeros, connected to the inputs.

    Raises:
        ValueError: the shapes do not fit, or `sharpness` is not above 0.
    """
    check_positive("sharpness", sharpness)
    source = source_NKD[:, None] if source_NKD.dim() == 2 else source_NKD
    if source.dim() != 3 or len(source) != len(lengths_N) or source.shape[2] != parts_MD.shape[1]:
        raise ValueError(
            "local_nce needs (N, D) or (N, K, D) sources, (M, D) parts and N lengths, got "
            f"{tuple(source_NKD.shape)}, "
            f"{tuple(parts_MD.shape)} and {tuple(lengths_N.shape)}."
        )
    n, k, d = source.shape
    if n < 2:
        return connected_zero(source, parts_MD), connected_zero(source, parts_MD)
    log_probabilities = [
        part_log_probabilities(s.contiguous(), parts_MD, lengths_N, bound=bound, tile=tile)
        for s in source.unbind(1)
    ]
    log_M = ((sharpness * torch.stack(log_probabilities)).logsumexp(0) - math.log(k)) / sharpness
    by_row = log_M.new_zeros(n).index_add(0, row_index(lengths_N), log_M) / lengths_N
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
    """(M, K) weights of a row's K vectors for each of its parts; they sum to 1. No gradient.

    Laid over an image they segment it. Arguments as in `local_nce`.
    """
    log_probabilities = [
        part_log_probabilities(s.contiguous(), parts_MD, lengths_N, bound=bound)
        for s in source_NKD.unbind(1)
    ]
    return (sharpness * torch.stack(log_probabilities, 1)).softmax(1)
