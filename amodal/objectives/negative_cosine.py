"""Regress one view's embedding from another's, by direction only.

Grill et al., NeurIPS 2020 (BYOL), arXiv:2006.07733, eq. 2; Chen and He, CVPR 2021 (SimSiam),
arXiv:2011.10566, eq. 1 (`negative_cosine` is 2 + 2 times theirs).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from amodal.objectives.common import apply, check_pair, connected_zero, full_precision

MIN_FUSED_ROWS = 256
"""Rows from which the fused gradient is used.

On a CPU core it was faster from 32 rows on (1.2 times there, 1.3 to 1.5 times at 256, 128 to 1024
wide). A lower threshold would gain microseconds a step, and change the last bits of small runs.
"""

MIN_NORM = 1e-12


@full_precision
def negative_cosine(prediction_ND: Tensor, target_ND: Tensor) -> Tensor:
    """Squared distance of unit vectors.

        L = mean_i || p_i / |p_i| - v_i / |v_i| ||^2 = 2 - 2 mean_i cos(p_i, v_i)

    First derivatives only.

    Args:
        prediction_ND: the predictor's output p of one view.
        target_ND: the other view's embedding v of the same rows, without gradient.

    Returns:
        A scalar between 0 and 4. Without rows: 0, connected to the prediction.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> p = torch.randn(4, 8)
        >>> round(float(negative_cosine(p, 2 * p)), 4)
        0.0
    """
    check_pair("negative_cosine", prediction_ND, target_ND)
    if not len(prediction_ND):
        return connected_zero(prediction_ND)
    if len(prediction_ND) < MIN_FUSED_ROWS:
        p, v = F.normalize(prediction_ND, dim=1), F.normalize(target_ND.detach(), dim=1)
        return 2 - 2 * (p.flatten() @ v.flatten()) / len(p)
    mean_cosine: Tensor = apply(_MeanCosine, prediction_ND, target_ND)
    return 2 - 2 * mean_cosine


def minus_cosine(prediction_ND: Tensor, target_ND: Tensor) -> Tensor:
    """Minus the mean cosine of rows, SimSiam's eq. 1: half of `negative_cosine`, less 1.

    Args:
        prediction_ND: the predictor's output p of one view.
        target_ND: the other view's projection z of the same rows, without gradient.

    Returns:
        A scalar between -1 and 1. Without rows: 0, connected to the prediction.

    Raises:
        ValueError: the shapes differ.
    """
    distance: Tensor = negative_cosine(prediction_ND, target_ND) / 2
    return distance - 1 if len(prediction_ND) else distance


class _MeanCosine(Function):
    """mean_i cos(p_i, v_i) and its gradient by p, without unit vectors in memory."""

    @staticmethod
    def forward(ctx: Any, p_ND: Tensor, v_ND: Tensor) -> Tensor:
        p_N, v_N = (torch.linalg.vector_norm(x, dim=1).clamp_min(MIN_NORM) for x in (p_ND, v_ND))
        dot_N = torch.bmm(p_ND.unsqueeze(1), v_ND.unsqueeze(2)).flatten()
        cosine_N: Tensor = dot_N / (p_N * v_N)
        ctx.save_for_backward(p_ND, v_ND, p_N, v_N, cosine_N)
        return cosine_N.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        p_ND, v_ND, p_N, v_N, cosine_N = ctx.saved_tensors
        scale = grad / len(p_ND)
        # d cos / d p = v / (|p| |v|) - cos p / |p|^2
        along_v, along_p = scale / (p_N * v_N), scale * cosine_N / p_N.square()
        return torch.addcmul(v_ND * along_v[:, None], p_ND, along_p[:, None], value=-1), None
