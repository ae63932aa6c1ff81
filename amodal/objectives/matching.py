"""Image-text matching with hard negatives: does this belong with that? For any two sources.

Li et al., ALBEF, 2021, arXiv:2107.07651, 3.2, "Image-Text Matching": a network scores a pair; its
negatives are drawn from the batch in proportion to what the contrastive loss thinks of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from amodal.masking.hashing import uniform
from amodal.objectives.common import check_pair, connected_zero, full_precision


@full_precision
def matching(same_N: Tensor, other_M: Tensor) -> Tensor:
    """Mean binary cross-entropy of the logits of N pairs that belong together and M that do not; 0,
    connected, without any."""
    if not len(same_N) + len(other_M):
        return connected_zero(same_N, other_M)
    return torch.cat([softplus(-same_N), softplus(other_M)]).mean()


@torch.no_grad()
@full_precision
def draw_others(
    logits_MN: Tensor,
    own_M: Tensor,
    seed_M: Tensor,
    *,
    group_N: Tensor | None = None,
    column_N: Tensor | None = None,
    floor: float = 0.0,
) -> Tensor:
    """One column for each row, drawn with probability softmax(logits_i) over the columns that are
    not its own: (M,) int64.

    own_M: the column that belongs to each row; seed_M: int64, all that is random about a row: the
    same seeds draw the same columns however rows are spread over processes. group_N: columns of the
    group of a row's own column are not drawn either (the same caption twice). column_N: int64, a
    name for each column (its own seed, say), so that what is drawn does not depend on the order of
    the columns; their numbers unless given. floor: added to each chance of the softmax over all
    columns, so that no column is out of reach (TIP, arXiv:2407.07582, has 1e-4). -1 where nothing
    is left to draw.
    """
    if not logits_MN.shape[1]:
        return torch.full_like(own_M, -1)
    column = torch.arange(logits_MN.shape[1], device=logits_MN.device)
    barred = column == own_M[:, None]
    if group_N is not None:
        barred |= group_N == group_N[own_M][:, None]
    # the largest of logits plus Gumbel noise is a draw from their softmax (Gumbel 1954; Maddison et
    # al. 2014)
    luck = uniform(seed_M[:, None], column if column_N is None else column_N).double() + 2.0**-25
    logits = (logits_MN.double().softmax(1) + floor).log() if floor else logits_MN.double()
    noisy = (logits - (-luck.log()).log()).masked_fill(barred, -torch.inf)
    return noisy.argmax(1).masked_fill(barred.all(1), -1)


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
    """For each a_i the index of a b_j, j != i, drawn with probability ~ exp(cos(a_i, b_j) /
    temperature): (N,) int64.

    a_ND, b_ND: embeddings of the same N rows; seed_N, group_N, floor: as in `draw_others`; tile:
    rows at once, memory only. Raises ValueError for unequal shapes.
    """
    check_pair("hard_negatives", a_ND, b_ND)
    if not len(a_ND):
        return seed_N.new_zeros(0)
    a, b = normalize(a_ND, dim=1) / temperature, normalize(b_ND, dim=1)
    own = torch.arange(len(a), device=a.device)
    parts = zip(*(t.split(tile) for t in (a, own, seed_N)))
    return torch.cat(
        [
            draw_others(rows @ b.T, mine, seeds, group_N=group_N, column_N=seed_N, floor=floor)
            for rows, mine, seeds in parts
        ]
    )


@torch.no_grad()
def exchange(seed_N: Tensor, share: float) -> Tensor:
    """(N,) int64: the row whose value stands in for that of row i: with probability `share` any
    other row, each as likely, else i itself. The same seeds draw the same rows wherever they stand.
    METER (Dou et al., CVPR 2022, arXiv:2111.02387) has a half."""
    own = torch.arange(len(seed_N), device=seed_N.device)
    other = draw_others(own.new_zeros(len(own), len(own)).double(), own, seed_N, column_N=seed_N)
    return torch.where((uniform(seed_N, -1) < share) & (other >= 0), other, own)
