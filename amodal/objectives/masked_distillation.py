"""iBOT: a student predicts what its teacher makes of tokens that it does not see.

Zhou et al., ICLR 2022, arXiv:2111.07832, eq. 2.
"""

import torch
from torch import Tensor

from amodal.objectives.common import connected_zero, full_precision


@full_precision
def masked_distillation(
    student_TK: Tensor, target_TK: Tensor, lengths_R: Tensor, *, temperature: float, rows: int
) -> Tensor:
    """Cross-entropy of hidden tokens, a mean over those of each row and then over all rows.

        L = 1/N sum_i 1/T_i sum_t H(target_t, softmax(student_t / temperature))

    Args:
        student_TK: logits of hidden tokens, row after row.
        target_TK: probabilities of the same tokens (rows sum to 1). They get no gradient.
        lengths_R: int64, hidden tokens of each row that has any.
        temperature: of the student.
        rows: N, also counting rows that hide nothing and add 0.

    Returns:
        A scalar. Without tokens: 0, connected to the input.

    Raises:
        ValueError: the shapes differ.
    """
    if student_TK.shape != target_TK.shape or len(lengths_R) > len(student_TK):
        raise ValueError(
            f"student {tuple(student_TK.shape)}, targets {tuple(target_TK.shape)} and the tokens "
            f"of {len(lengths_R)} rows do not fit."
        )
    if not len(student_TK):
        return connected_zero(student_TK)
    logits_TK = student_TK / temperature
    loss_T = logits_TK.logsumexp(1) - (target_TK.detach() * logits_TK).sum(1)
    # with its output_size torch need not fetch the sum of the lengths from the device
    tokens_T = torch.repeat_interleave(lengths_R, lengths_R, output_size=len(loss_T))
    return (loss_T / tokens_T).sum() / rows
