"""Contrast of one attribute at a time, on rows that differ in all the others.

Chen et al., AAAI 2023, arXiv:2207.01328, "Attribute-level Contrastive Learning".
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.masking.hashing import uniform
from amodal.objectives.common import connected_zero, full_precision


@torch.no_grad()
def draw_attribute_rows(
    group_M: Tensor, value_MP: Tensor, attributes_MA: Tensor, seed_M: Tensor, *, negatives: int = 4
) -> tuple[Tensor, Tensor]:
    """Draw one positive and up to `negatives` negatives for each row.

    The positive has the same attribute masked, the same value of it, and is of another class.
    It is drawn with probability ~ d^2, d the Manhattan distance of the attributes. Negatives
    have the same attribute masked with another value. They are drawn without replacement with
    probability ~ 1 / d^2; if there are too few, rows with another attribute masked fill up.

    Args:
        group_M: int64, which attribute is masked.
        value_MP: value of the masked attribute, as P numbers.
        attributes_MA: all attributes; rows with equal attributes are of one class.
        seed_M: int64, the only source of randomness of a row. The order of rows has no effect.
        negatives: K.

    Returns:
        Positives (M,) and negatives (M, K), int64 row numbers, -1 where there is none.
    """
    if not len(group_M):
        return group_M, group_M.new_zeros(0, negatives)
    distance = torch.cdist(attributes_MA.double(), attributes_MA.double(), p=1)
    group, value = group_M[:, None] == group_M, (value_MP[:, None] == value_MP).all(2)
    gumbel = [
        (-(uniform(seed_M[:, None], seed_M, k).double() + 2.0**-25).log()).log() for k in range(2)
    ]
    # The k largest of log weight + Gumbel noise -log(-log u) are k draws without replacement. u is
    # the middle of a cell of `uniform`, so that no logarithm is infinite.
    # equal attributes, whose distance has no logarithm, are ruled out below
    far, near = (sign * 2 * distance.log() - noise for sign, noise in zip((1, -1), gumbel))
    far = far.masked_fill(~(group & value & (distance > 0)), -torch.inf)
    # rows with another attribute masked rank behind all with this one
    near = torch.where(group, near.masked_fill(value, -torch.inf), -1e4 - gumbel[1])
    positive_score, positive = far.max(1)
    negative_score, negative = near.topk(min(negatives, len(near)), dim=1)
    return positive.masked_fill(positive_score == -torch.inf, -1), negative.masked_fill(
        negative_score == -torch.inf, -1
    )


@full_precision
def attribute_contrast(z_MD: Tensor, positive_M: Tensor, negative_MK: Tensor) -> Tensor:
    """InfoNCE of each row against its drawn positive and negatives, by plain dot products.

        L = mean -log( e^{z.p} / (e^{z.p} + sum_n e^{z.n}) )

    The mean runs over rows that have a positive and at least one negative.

    Args:
        z_MD: embeddings.
        positive_M, negative_MK: row numbers from `draw_attribute_rows`.

    Returns:
        A scalar. Without such a row: 0, connected to the input.
    """
    valid = (positive_M >= 0) & (negative_MK >= 0).any(1)
    if not bool(valid.any()):
        return connected_zero(z_MD)
    z, negative = z_MD[valid], negative_MK[valid]
    positive_logit = (z * z_MD[positive_M[valid]]).sum(1, keepdim=True)
    negative_logits = (
        (z[:, None] * z_MD[negative.clamp(min=0)]).sum(2).masked_fill(negative < 0, -torch.inf)
    )
    return (
        torch.cat([positive_logit, negative_logits], 1).logsumexp(1) - positive_logit.squeeze(1)
    ).mean()
