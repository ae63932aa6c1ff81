"""Image-text matching with hard negatives: do two values belong together? For any two sources.

Li et al., ALBEF, NeurIPS 2021, arXiv:2107.07651, section 3.2, "Image-Text Matching": a network
scores a pair, and negatives are sampled from the batch by their contrastive similarity.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from amodal.masking.hashing import uniform
from amodal.objectives.common import check_pair, connected_zero, full_precision


@full_precision
def matching(positive_N: Tensor, negative_M: Tensor) -> Tensor:
    """Mean binary cross-entropy of matching and non-matching pairs.

    Args:
        positive_N: logits of pairs that belong together.
        negative_M: logits of pairs that do not.

    Returns:
        A scalar. Without pairs: 0, connected to the inputs.
    """
    if not len(positive_N) + len(negative_M):
        return connected_zero(positive_N, negative_M)
    return torch.cat([softplus(-positive_N), softplus(negative_M)]).mean()


@torch.no_grad()
@full_precision
def sample_negatives(
    logits_MN: Tensor,
    positive_M: Tensor,
    seed_M: Tensor,
    *,
    group_N: Tensor | None = None,
    column_N: Tensor | None = None,
    floor: float = 0.0,
) -> Tensor:
    """Sample one column for each row, with probability softmax(logits_i), the positive excluded.

    The same seeds sample the same columns, however rows are spread over processes.

    Args:
        logits_MN: scores of N columns for each of M rows.
        positive_M: int64, the column of each row's positive.
        seed_M: int64, the only source of randomness of a row.
        group_N: int64; columns of the positive's group are excluded too (the same caption twice).
        column_N: int64, an identifier of each column, such as its own seed, so that the order of
            columns has no effect; None for their numbers.
        floor: added to each probability over all columns, so that none is zero (TIP,
            arXiv:2407.07582, has 1e-4).

    Returns:
        (M,) int64, -1 where no column is left.
    """
    if not logits_MN.shape[1]:
        return torch.full_like(positive_M, -1)
    column = torch.arange(logits_MN.shape[1], device=logits_MN.device)
    excluded = column == positive_M[:, None]
    if group_N is not None:
        excluded |= group_N == group_N[positive_M][:, None]
    # the largest of logits plus Gumbel noise is a draw from their softmax (Gumbel 1954; Maddison et
    # al. 2014)
    draws = uniform(seed_M[:, None], column if column_N is None else column_N).double() + 2.0**-25
    logits = (logits_MN.double().softmax(1) + floor).log() if floor else logits_MN.double()
    noisy = (logits - (-draws.log()).log()).masked_fill(excluded, -torch.inf)
    return noisy.argmax(1).masked_fill(excluded.all(1), -1)


@torch.no_grad()
def hard_negatives(
    a_ND: Tensor,
    b_ND: Tensor,
    seed_N: Tensor,
    *,
    temperature: float | Tensor,
    group_N: Tensor | None = None,
    floor: float = 0.0,
    tile: int = 1024,
) -> Tensor:
    """For each a_i sample b_j, j != i, with probability ~ exp(cos(a_i, b_j) / temperature).

    Args:
        a_ND, b_ND: embeddings of the same N rows; normalised here.
        seed_N, group_N, floor: as in `sample_negatives`.
        temperature: of the softmax.
        tile: rows at a time; changes memory, not the result.

    Returns:
        (N,) int64 row numbers, -1 where no row is left.

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("hard_negatives", a_ND, b_ND)
    if not len(a_ND):
        return seed_N.new_zeros(0)
    a, b = normalize(a_ND, dim=1) / temperature, normalize(b_ND, dim=1)
    index = torch.arange(len(a), device=a.device)
    parts = zip(*(t.split(tile) for t in (a, index, seed_N)))
    return torch.cat(
        [
            sample_negatives(
                rows @ b.T, positive, seeds, group_N=group_N, column_N=seed_N, floor=floor
            )
            for rows, positive, seeds in parts
        ]
    )


@torch.no_grad()
def swap_partners(seed_N: Tensor, share: float, *, group_N: Tensor | None = None) -> Tensor:
    """Replace row i by another row with probability `share`, each other row as likely.

    The same seeds give the same rows, in any order. METER (Dou et al., CVPR 2022,
    arXiv:2111.02387) has a share of one half.

    Args:
        seed_N: int64, the only source of randomness of a row.
        share: probability of a swap.
        group_N: int64; a row is not replaced by another of its group (the same caption twice).

    Returns:
        (N,) int64 row numbers, i itself where nothing is swapped.
    """
    index = torch.arange(len(seed_N), device=seed_N.device)
    other = sample_negatives(
        index.new_zeros(len(index), len(index)).double(),
        index,
        seed_N,
        group_N=group_N,
        column_N=seed_N,
    )
    return torch.where((uniform(seed_N, -1) < share) & (other >= 0), other, index)
