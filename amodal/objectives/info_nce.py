"""InfoNCE, the symmetric form of CLIP, and NT-Xent of SimCLR, in memory linear in the batch.

van den Oord et al. 2018, arXiv:1807.03748, eq. 4; Radford et al. 2021, arXiv:2103.00020, figure 3;
Chen et al. 2020, arXiv:2002.05709, eq. 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import pair_log_sum_exp, row_log_sum_exp, self_log_sum_exp


@full_precision
def info_nce(
    a_ND: Tensor,
    b_ND: Tensor,
    *,
    temperature: float | Tensor,
    symmetric: bool = True,
    tile: int = 1024,
) -> Tensor:
    """Each row of `a` is classified among the N rows of `b`.

        L = mean_i -log softmax_j(cos(a_i, b_j) / temperature)_{j=i}

    First derivatives only.

    Args:
        a_ND, b_ND: embeddings of the same N rows; normalised here.
        temperature: a number, or a scalar tensor that gets a gradient; pass `exp(-log_scale)` to
            learn it as CLIP does.
        symmetric: average with the direction b -> a (CLIP).
        tile: side of a block of the similarity matrix; changes memory and speed, not the result.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, or `temperature` is not above 0.

    Example:
        >>> images, texts = torch.randn(8, 16), torch.randn(8, 16)
        >>> info_nce(images, texts, temperature=0.07).shape
        torch.Size([])
    """
    check_pair("info_nce", a_ND, b_ND)
    check_positive("temperature", temperature)
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND, temperature)
    a, b = F.normalize(a_ND, dim=1) / temperature, F.normalize(b_ND, dim=1)
    positive = (a * b).sum(1).mean()
    if not symmetric:
        return row_log_sum_exp(a, b, tile=tile).mean() - positive
    rows, columns = pair_log_sum_exp(a, b, tile=tile)
    return (rows.mean() + columns.mean()) / 2 - positive


@full_precision
def nt_xent(
    a_ND: Tensor, b_ND: Tensor, *, temperature: float | Tensor = 0.5, tile: int = 1024
) -> Tensor:
    """SimCLR's loss: each of the 2N views is classified among the other 2N - 1 views.

        L = mean_u -log( s(z_u, z_u') / sum_{v != u} s(z_u, z_v) ),  s = exp(cos / temperature)

    u' is the other view of the row of u. Unlike in `info_nce`, negatives also come from the same
    side (a with a). First derivatives only.

    Args:
        a_ND, b_ND: two views of the same N rows; normalised here.
        temperature: as in `info_nce`; the paper has 0.5 for CIFAR-10 and 0.1 for ImageNet.
        tile: as in `info_nce`.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, or `temperature` is not above 0.
    """
    check_pair("nt_xent", a_ND, b_ND)
    check_positive("temperature", temperature)
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND, temperature)
    # Both factors of every product carry the root, so that the Gram matrix stays symmetric.
    z = F.normalize(torch.cat([a_ND, b_ND]), dim=1) / temperature**0.5
    a, b = z.chunk(2)
    return self_log_sum_exp(z, tile=tile).mean() - (a * b).sum(1).mean()
