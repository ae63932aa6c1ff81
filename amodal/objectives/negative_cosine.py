"""Predict one view's embedding from another's, by direction alone.

Grill et al. 2020 (BYOL), arXiv:2006.07733, eq. 2; Chen and He 2021 (SimSiam), arXiv:2011.10566, eq.
1 (this is 2 + 2 times theirs).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from amodal.objectives.common import check_pair, connected_zero, full_precision

MANY = 256
"""Rows from which the gradient is computed in one pass."""

SMALLEST_NORM = 1e-12


@full_precision
def negative_cosine(prediction_ND: Tensor, target_ND: Tensor) -> Tensor:
    """Mean over rows of |p / |p| - v / |v||^2 = 2 - 2 cos(p, v), between 0 and 4; no gradient flows
    into the target.

    prediction_ND: what a predictor makes of one view; target_ND: the other view's embedding of the
    same N rows. No rows give a connected 0. First derivatives only. Raises ValueError for unequal
    shapes.
    """
    check_pair("negative_cosine", prediction_ND, target_ND)
    if not len(prediction_ND):
        return connected_zero(prediction_ND)
    if len(prediction_ND) < MANY:
        p, v = F.normalize(prediction_ND, dim=1), F.normalize(target_ND.detach(), dim=1)
        return 2 - 2 * (p.flatten() @ v.flatten()) / len(p)
    return 2 - 2 * _MeanCosine.apply(prediction_ND, target_ND)


class _MeanCosine(Function):
    """mean_i cos(p_i, v_i), and its gradient by p alone, without the unit vectors in between:
    memory is read as seldom as it can be."""

    @staticmethod
    def forward(ctx, p_ND: Tensor, v_ND: Tensor) -> Tensor:
        p_N, v_N = (
            torch.linalg.vector_norm(x, dim=1).clamp_min(SMALLEST_NORM) for x in (p_ND, v_ND)
        )
        dot_N = torch.bmm(p_ND.unsqueeze(1), v_ND.unsqueeze(2)).flatten()
        cosine_N = dot_N / (p_N * v_N)
        ctx.save_for_backward(p_ND, v_ND, p_N, v_N, cosine_N)
        return cosine_N.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        p_ND, v_ND, p_N, v_N, cosine_N = ctx.saved_tensors
        each = grad / len(p_ND)
        along_v, along_p = each / (p_N * v_N), each * cosine_N / p_N.square()
        return torch.addcmul(v_ND * along_v[:, None], p_ND, along_p[:, None], value=-1), None
