"""iBOT: a student predicts what its teacher makes of tokens that it does not see.

Zhou et al., ICLR 2022, arXiv:2111.07832, eq. 2.
"""

import torch
from torch import Tensor

from amodal.objectives.common import connected_zero, full_precision


@full_precision
def masked_distillation(
    student_TK: Tensor, target_TK: Tensor, row_T: Tensor, *, temperature: float, rows: int
) -> Tensor:
    """Cross-entropy of hidden tokens, a mean over those of each row and then over all rows.

        L = 1/N sum_i 1/T_i sum_t H(target_t, softmax(student_t / temperature))

    Args:
        student_TK: logits of hidden tokens.
        target_TK: probabilities of the same tokens (rows sum to 1). They get no gradient.
        row_T: int64, whose tokens they are.
        temperature: of the student.
        rows: N, also counting rows that hide nothing and add 0.

    Returns:
        A scalar. Without tokens: 0, connected to the input.

    Raises:
        ValueError: the shapes differ.
    """
    if student_TK.shape != target_TK.shape or len(row_T) != len(student_TK):
        raise ValueError(
            f"student {tuple(student_TK.shape)}, targets {tuple(target_TK.shape)} and the rows of "
            f"{len(row_T)} tokens do not fit."
        )
    if not len(row_T):
        return connected_zero(student_TK)
    logits_TK = student_TK / temperature
    loss_T = logits_TK.logsumexp(1) - (target_TK.detach() * logits_TK).sum(1)
    tokens_T = torch.bincount(row_T)[row_T]
    return (loss_T / tokens_T).sum() / rows
