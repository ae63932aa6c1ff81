"""Gram anchoring: similarities between the patches of a picture stay those of an earlier model.

Siméoni et al., DINOv3, 2025, arXiv:2508.10104, section 4.2, eq. 2.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from amodal.objectives.common import apply, full_precision

CELLS = 1 << 22
"""Entries of the similarity matrices that are there at a time."""


class _GramDistance(Function):
    """(R,) mean squared differences; the gradient by the student is computed in the forward pass.

    No matrix of similarities outlives its tile.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student_TD: Tensor,
        target_TD: Tensor,
        lengths: tuple[int, ...],
        clamp_negative: bool,
        cells: int,
    ) -> Tensor:
        loss_R, gradient_TD = student_TD.new_zeros(len(lengths)), torch.zeros_like(student_TD)
        lengths_R = torch.tensor(lengths, dtype=torch.int64)
        start_R = lengths_R.cumsum(0) - lengths_R
        for length in sorted(set(lengths) - {0}):
            rows = [r for r, n in enumerate(lengths) if n == length]
            at_once = max(1, cells // length**2)
            for some in torch.tensor(rows).split(at_once):
                index_RP = (start_R[some][:, None] + torch.arange(length)).to(student_TD.device)
                loss, gradient = _distances(
                    student_TD[index_RP], target_TD[index_RP], clamp_negative, cells
                )
                loss_R[some.to(loss_R.device)] = loss
                gradient_TD[index_RP] = gradient
        ctx.save_for_backward(gradient_TD)
        ctx.lengths = lengths
        return loss_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_R: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_TD,) = ctx.saved_tensors
        lengths_R = torch.tensor(ctx.lengths, dtype=torch.int64, device=grad_R.device)
        grad_T = torch.repeat_interleave(grad_R, lengths_R, output_size=len(gradient_TD))
        return gradient_TD * grad_T[:, None], None, None, None, None


def _distances(
    x_RPD: Tensor, y_RPD: Tensor, clamp_negative: bool, cells: int
) -> tuple[Tensor, Tensor]:
    """The mean squared differences (R,) of the two similarity matrices of each row, and their
    gradient by x, some lines of the matrices at a time."""
    rows, length = x_RPD.shape[:2]
    loss_R, gradient_RPD = x_RPD.new_zeros(rows), torch.empty_like(x_RPD)
    lines = max(1, cells // (rows * length))
    for start in range(0, length, lines):
        part = slice(start, start + lines)
        own_RpP = x_RPD[:, part] @ x_RPD.mT
        gap_RpP = y_RPD[:, part] @ y_RPD.mT
        if clamp_negative:
            gap_RpP.clamp_(min=0).neg_().add_(own_RpP.clamp(min=0))
        else:
            gap_RpP.neg_().add_(own_RpP)
        loss_R += gap_RpP.square().sum((1, 2))
        if clamp_negative:  # a similarity that is set to 0 moves with nothing
            gap_RpP.mul_(own_RpP > 0)
        # the matrix is symmetric: each vector is in one of its lines and in one of its columns
        gradient_RPD[:, part] = gap_RpP @ x_RPD
    return loss_R / length**2, gradient_RPD * (4 / length**2)


@full_precision
def gram_anchor(
    student_TD: Tensor,
    target_TD: Tensor,
    lengths_R: Tensor,
    *,
    clamp_negative: bool = False,
    cells: int = CELLS,
) -> Tensor:
    """Distance of the similarities between patches of each picture from those of a Gram teacher.

        L_r = 1 / P^2 || X_S X_S^T - X_G X_G^T ||_F^2, with X_S and X_G (P, D) of unit vectors

    The cost is that of the matrices of single pictures; a matrix of all patches of a batch is
    never made. First derivatives only.

    Args:
        student_TD: patch vectors, picture after picture; normalised here.
        target_TD: those of the Gram teacher, of the same patches. They get no gradient.
        lengths_R: (R,) int64 on the CPU, patches of each picture.
        clamp_negative: negative similarities count as 0, on both sides.
        cells: entries of similarity matrices that are there at a time.

    Returns:
        (R,), 0 of a picture without patches.

    Raises:
        ValueError: the shapes do not fit.
    """
    lengths = tuple(lengths_R.tolist())
    if student_TD.shape != target_TD.shape or sum(lengths) != len(student_TD):
        raise ValueError(
            f"student {tuple(student_TD.shape)}, targets {tuple(target_TD.shape)} and pictures of "
            f"{sum(lengths)} patches do not fit."
        )
    x_TD = F.normalize(student_TD, dim=1)
    y_TD = F.normalize(target_TD.detach(), dim=1)
    loss: Tensor = apply(_GramDistance, x_TD, y_TD, lengths, clamp_negative, cells)
    return loss
