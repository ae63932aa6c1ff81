"""DINO: every student view predicts the teacher's view of the others. Caron et al. 2021,
arXiv:2104.14294, eq. 2-4."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from amodal.objectives.common import connected_zero, full_precision


class _ViewCrossEntropy(Function):
    """Sum of log-sum-exp(x) - <p, x>, the gradient softmax(x) - p being taken on the way: one (N,
    K) tensor per view is kept, the one that the backward pass hands out anyway."""

    @staticmethod
    def forward(ctx, targets_VNK, temperature, with_gradient, *students):
        teachers, rows = targets_VNK.shape[:2]
        weight = 1 / (rows * (teachers * len(students) - min(teachers, len(students))))
        total, gradients, everyone = targets_VNK.new_zeros(()), [], None
        softmax_NK = torch.empty_like(
            targets_VNK[0]
        )  # one for all views: fresh memory costs more than arithmetic
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
                target_NK = everyone = targets_VNK.sum(0) if everyone is None else everyone
            logits_NK = student_NK / temperature
            # The largest probability gives log-sum-exp back without a second pass of exponentials.
            torch.softmax(logits_NK, 1, out=softmax_NK)
            log_sum_N = logits_NK.amax(1) - softmax_NK.amax(1).log()
            dot = torch.dot(target_NK.reshape(-1), logits_NK.reshape(-1))
            total += weight * (len(others) * log_sum_N.sum() - dot)
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
    def backward(ctx, grad):
        return None, None, None, *(gradient * grad for gradient in ctx.saved_tensors)


@full_precision
def view_cross_entropy(
    student_VNK: Tensor | Sequence[Tensor],
    target_VNK: Tensor | Sequence[Tensor],
    *,
    temperature: float = 0.1,
) -> Tensor:
    """Mean cross-entropy of softmax(student / temperature) under given target probabilities, own
    view left out.

    student_VNK: logits, views by rows by prototypes; target_VNK: probabilities (rows sum to 1),
    fewer views or as many. Targets may come from a centred softmax (DINO) or from Sinkhorn-Knopp
    (SwAV, DINOv2); they get no gradient.

    Raises ValueError if no student view has another view to predict, or shapes differ.
    """
    students = list(student_VNK)
    targets = target_VNK if isinstance(target_VNK, Tensor) else torch.stack(list(target_VNK))
    if not students or len(targets) * len(students) == min(len(targets), len(students)):
        raise ValueError(
            f"a view predicts the other views: {len(students)} student and {len(targets)} teacher views leave no pair."
        )
    wrong = [tuple(view.shape) for view in students if view.shape != targets.shape[1:]]
    if targets.dim() != 3 or wrong:
        raise ValueError(
            f"every view must be (N, K) = {tuple(targets.shape[1:])} like the teacher's, got {wrong}."
        )
    if targets.shape[1] == 0:
        return connected_zero(*students)
    return _ViewCrossEntropy.apply(
        targets.detach(), temperature, torch.is_grad_enabled(), *students
    )


@full_precision
def dino_loss(
    student_VNK: Tensor | Sequence[Tensor],
    teacher_VNK: Tensor | Sequence[Tensor],
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float,
    center_K: Tensor,
) -> Tensor:
    """Mean over pairs of different views and over rows of H(softmax((t - center) / tau_t),
    softmax(s / tau_s)).

    student_VNK: logits of every view; the first ones are the teacher's views in the same order, the
    rest local crops. teacher_VNK: logits of the global views; no gradient flows into them.
    center_K:    running mean of teacher logits, kept by the caller with `update_center` after each
                 step.

    No rows give a connected 0. First derivatives only. Errors as in `view_cross_entropy`.
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
    """eq. 4: momentum * center + (1 - momentum) * mean of the teacher's logits over views and rows;
    a new tensor.

    Without any row the center is returned as it is. On several processes, average the mean first.
    """
    views = [view.reshape(-1, center_K.shape[-1]) for view in teacher_outputs]
    rows = sum(len(view) for view in views)
    if rows == 0:
        return center_K.clone()
    mean_K = sum(view.sum(0) for view in views) / rows
    return momentum * center_K + (1 - momentum) * mean_K
