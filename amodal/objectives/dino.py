"""DINO: every student view predicts the teacher's other views.

Caron et al., ICCV 2021, arXiv:2104.14294, eq. 2-4.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from amodal.objectives.common import apply, connected_zero, full_precision


class _ViewCrossEntropy(Function):
    """Sum of log-sum-exp(x) - <p, x>; its gradient softmax(x) - p is computed in the forward.

    One (N, K) tensor a view is held, the one that the backward pass returns anyway.
    """

    @staticmethod
    def forward(
        ctx: Any, targets_VNK: Tensor, temperature: float, with_gradient: bool, *students: Tensor
    ) -> Tensor:
        teachers, rows = targets_VNK.shape[:2]
        # all pairs of views but those of a view with itself
        weight = 1 / (rows * (teachers * len(students) - min(teachers, len(students))))
        total, summed_NK = targets_VNK.new_zeros(()), None
        gradients: list[Tensor | None] = []
        # one for all views: fresh memory costs more than arithmetic
        softmax_NK = torch.empty_like(targets_VNK[0])
        for view, student_NK in enumerate(students):
            others = [t for t in range(teachers) if t != view]
            if not others:
                gradients.append(torch.zeros_like(student_NK) if with_gradient else None)
                continue
            if len(others) == 1:
                target_NK = targets_VNK[others[0]]
            elif len(others) < teachers:
                target_NK = targets_VNK[others].sum(0)
            else:
                target_NK = summed_NK = targets_VNK.sum(0) if summed_NK is None else summed_NK
            logits_NK = student_NK / temperature
            # The largest probability gives log-sum-exp back without a second pass of exponentials.
            torch.softmax(logits_NK, 1, out=softmax_NK)
            log_sum_N = logits_NK.amax(1) - softmax_NK.amax(1).log()
            inner = torch.dot(target_NK.reshape(-1), logits_NK.reshape(-1))
            total += weight * (len(others) * log_sum_N.sum() - inner)
            if with_gradient:
                factor = weight / temperature
                torch.mul(softmax_NK, len(others) * factor, out=logits_NK).sub_(
                    target_NK, alpha=factor
                )
                gradients.append(logits_NK)
        if with_gradient:
            ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(gradient * grad for gradient in ctx.saved_tensors)


@full_precision
def view_cross_entropy(
    student_VNK: Tensor | Sequence[Tensor],
    target_VNK: Tensor | Sequence[Tensor],
    *,
    temperature: float = 0.1,
) -> Tensor:
    """Cross-entropy between student views and target views, a view and itself left out.

        L = mean_{u != v, i} H(target_v,i, softmax(student_u,i / temperature))

    Targets may come from a centred softmax (DINO) or from Sinkhorn-Knopp (SwAV, DINOv2). They
    get no gradient. First derivatives only.

    Args:
        student_VNK: logits, views x rows x prototypes.
        target_VNK: probabilities (rows sum to 1) of the first views; as many views or fewer.
        temperature: of the student.

    Returns:
        A scalar. Without rows: 0, connected to the inputs.

    Raises:
        ValueError: no student view has another view to predict, or shapes differ.
    """
    students = list(student_VNK)
    targets = target_VNK if isinstance(target_VNK, Tensor) else torch.stack(list(target_VNK))
    if not students or len(targets) * len(students) == min(len(targets), len(students)):
        raise ValueError(
            f"a view predicts the other views: {len(students)} student and {len(targets)} teacher "
            "views leave no pair."
        )
    wrong = [tuple(view.shape) for view in students if view.shape != targets.shape[1:]]
    if targets.dim() != 3 or wrong:
        raise ValueError(
            f"every view must be (N, K) = {tuple(targets.shape[1:])} like the teacher's, got "
            f"{wrong}."
        )
    if targets.shape[1] == 0:
        return connected_zero(*students)
    loss: Tensor = apply(
        _ViewCrossEntropy, targets.detach(), temperature, torch.is_grad_enabled(), *students
    )
    return loss


@full_precision
def dino_loss(
    student_VNK: Tensor | Sequence[Tensor],
    teacher_VNK: Tensor | Sequence[Tensor],
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float,
    center_K: Tensor,
) -> Tensor:
    """Self-distillation between views.

        L = mean_{u != v, i} H(softmax((t_v,i - center) / tau_t), softmax(s_u,i / tau_s))

    First derivatives only.

    Args:
        student_VNK: logits of all views: the teacher's first, in the same order, then local crops.
        teacher_VNK: logits of the global views, without gradient.
        student_temperature: tau_s.
        teacher_temperature: tau_t.
        center_K: running mean of teacher logits, which the caller updates by `update_center`.

    Returns:
        A scalar. Without rows: 0, connected to the inputs.

    Raises:
        ValueError: as in `view_cross_entropy`.

    Example:
        >>> views = [torch.randn(4, 16) for _ in range(3)]
        >>> dino_loss(views, views[:2], teacher_temperature=0.04, center_K=torch.zeros(16)).shape
        torch.Size([])
    """
    with torch.no_grad():
        targets = torch.stack(
            [((view - center_K) / teacher_temperature).softmax(-1) for view in teacher_VNK]
        )
    return view_cross_entropy(student_VNK, targets, temperature=student_temperature)


@torch.no_grad()
@full_precision
def update_center(
    center_K: Tensor, teacher_outputs: Tensor | Sequence[Tensor], momentum: float = 0.9
) -> Tensor:
    """Exponential moving average of the teacher's mean logits, eq. 4.

        center <- momentum center + (1 - momentum) mean_{v, i} t_v,i

    On several processes, average the mean first.

    Args:
        center_K: the center before.
        teacher_outputs: logits (..., K) of each view.
        momentum: share of the center before.

    Returns:
        A new tensor (K,); the center as it was if there is no row.
    """
    views = [view.reshape(-1, center_K.shape[-1]) for view in teacher_outputs]
    rows = sum(len(view) for view in views)
    if rows == 0:
        return center_K.clone()
    mean_K = sum(view.sum(0) for view in views) / rows
    return momentum * center_K + (1 - momentum) * mean_K
