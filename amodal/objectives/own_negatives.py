"""InfoNCE in one direction with a further negative for each row: what it must not be taken for,
such as the state before an edit.

Jawade et al., WACV 2025, arXiv:2501.08347, whose further negative is the caption before its edit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.tiles import by_rows

SAME = 1 - 1e-5


@full_precision
def own_negative_nce(
    a_ND: Tensor,
    b_ND: Tensor,
    own_ND: Tensor,
    own_N: Tensor,
    *,
    temperature: float | Tensor,
    tile: int = 256,
) -> Tensor:
    """Mean over rows of -log(e^{a_i.b_i} / (sum_j e^{a_i.b_j} + e^{a_i.own_i})), cosines over the
    temperature.

    own_ND: a negative for each row; own_N: (N,) bool, which rows have one; the others' values are
    not read.
    tile:   rows of a block of the similarity matrix; changes memory and speed, not the result.

    A negative that is equal to the row's own target (cosine above 1 - 1e-5: the same text twice) is
    no negative and is left out. No row gives a connected 0. Raises ValueError for unequal shapes
    and a temperature that is not above 0.
    """
    check_pair("own_negative_nce", a_ND, b_ND)
    check_pair("own_negative_nce", a_ND, own_ND)
    check_positive("temperature", temperature)
    if not len(a_ND):
        return connected_zero(a_ND, b_ND, own_ND, temperature)
    a, b, own = (F.normalize(x, dim=1) for x in (a_ND, b_ND, own_ND))
    number = torch.arange(len(a), device=a.device)

    def loss(a_t: Tensor, b_t: Tensor, own_t: Tensor, has_t: Tensor, number_t: Tensor) -> Tensor:
        alike = (b_t @ b.T > SAME) & (number_t[:, None] != number)
        others = (a_t @ b.T).masked_fill(alike, -torch.inf)
        alike = ((b_t * own_t).sum(1) > SAME) | ~has_t
        further = (a_t * own_t).sum(1).masked_fill(alike, -torch.inf)
        logits = torch.cat([others, further[:, None]], 1) / temperature
        return logits.logsumexp(1) - (a_t * b_t).sum(1) / temperature

    return by_rows(loss, a, b, own, own_N, number, tile=tile).mean()
