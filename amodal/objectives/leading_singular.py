"""A regulariser on the leading singular value of the similarities between two sources.

MedFLIP, Li et al. 2024, arXiv:2403.04626, "Medical-SVD loss": a term in the largest singular value
of the similarity matrix between the images and texts of a batch. Scale and sign are not recoverable
from the paper, so both are the caller's.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.objectives.common import check_pair, connected_zero, full_precision


@full_precision
def leading_singular(a_ND: Tensor, b_ND: Tensor, *, relative: bool = True) -> Tensor:
    """Share of the leading singular value of the N x N matrix of cosines cos(a_i, b_j).

        L = s_1 / sum_k s_k,  s_1 >= s_2 >= … the singular values

    The matrix has rank D at most and is never formed: memory is linear in N. First derivatives
    only.

    Args:
        a_ND, b_ND: embeddings of the same N rows; normalised here.
        relative: False for s_1 / N, which is 1 where all cosines are 1.

    Returns:
        A scalar between 1 / min(N, D) (all directions alike) and 1 (rank one). Fewer than two
        rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("leading_singular", a_ND, b_ND)
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND)
    a, b = normalize(a_ND, dim=1), normalize(b_ND, dim=1)
    with torch.no_grad():
        (q_a, r_a), (q_b, r_b) = torch.linalg.qr(a), torch.linalg.qr(b)
        left, _, right = torch.linalg.svd(r_a @ r_b.T)
        left, right = q_a @ left, q_b @ right.T
    # the derivative of a singular value is that of u' S v with its two vectors held still
    values: Tensor = ((left.T @ a) * (right.T @ b)).sum(1)
    total: Tensor | int = values.sum().clamp(min=1e-12) if relative else len(a_ND)
    return values[0] / total
