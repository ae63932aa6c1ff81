"""InfoNCE with an explicit hard negative for each row, such as the state before an edit.

Jawade et al., WACV 2025, arXiv:2501.08347, whose explicit negative is the caption before its edit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.tiles import by_rows

DUPLICATE_COSINE = 1 - 1e-5


@full_precision
def explicit_negative_nce(
    a_ND: Tensor,
    b_ND: Tensor,
    negative_ND: Tensor,
    has_negative_N: Tensor,
    *,
    temperature: float | Tensor,
    tile: int = 256,
) -> Tensor:
    """InfoNCE in one direction, with one more negative n_i for each row.

        L = mean_i -log( e^{a_i.b_i} / (sum_j e^{a_i.b_j} + e^{a_i.n_i}) ), cosines / temperature

    Negatives equal to the row's target (cosine above 1 - 1e-5: the same text twice) are left out.

    Args:
        a_ND, b_ND: embeddings of the same N rows; normalised here.
        negative_ND: the explicit negatives; normalised here.
        has_negative_N: bool, which rows have one; the other rows of `negative_ND` are not read.
        temperature: a number, or a scalar tensor that gets a gradient.
        tile: rows of the similarity matrix at a time; changes memory and speed, not the result.

    Returns:
        A scalar. Without rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, or `temperature` is not above 0.
    """
    check_pair("explicit_negative_nce", a_ND, b_ND)
    check_pair("explicit_negative_nce", a_ND, negative_ND)
    check_positive("temperature", temperature)
    if not len(a_ND):
        return connected_zero(a_ND, b_ND, negative_ND, temperature)
    a, b, negative = (F.normalize(x, dim=1) for x in (a_ND, b_ND, negative_ND))
    index = torch.arange(len(a), device=a.device)

    def loss(
        a_t: Tensor, b_t: Tensor, negative_t: Tensor, has_t: Tensor, index_t: Tensor
    ) -> Tensor:
        duplicate = (b_t @ b.T > DUPLICATE_COSINE) & (index_t[:, None] != index)
        in_batch = (a_t @ b.T).masked_fill(duplicate, -torch.inf)
        duplicate = ((b_t * negative_t).sum(1) > DUPLICATE_COSINE) | ~has_t
        explicit = (a_t * negative_t).sum(1).masked_fill(duplicate, -torch.inf)
        logits = torch.cat([in_batch, explicit[:, None]], 1) / temperature
        return logits.logsumexp(1) - (a_t * b_t).sum(1) / temperature

    return by_rows(loss, a, b, negative, has_negative_N, index, tile=tile).mean()
