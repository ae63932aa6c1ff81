"""Contrast of one attribute at a time: what shows the same value in an otherwise different thing,
against look-alikes without it.

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
    """For each row one positive (M,) and up to `negatives` others (M, K), int64, -1 where there is
    none.

    group_M: which attribute was masked; value_MP: its value, as P numbers; attributes_MA: all
    attributes of a row, and two rows are of one class if these are equal; seed_M: int64, all that
    is random about a row: what is drawn does not depend on the order of the rows.

    The positive has the same attribute masked, the same value there, and is of another class, drawn
    with probability ~ d^2, where d is the Manhattan distance of the attributes. Others have the
    same attribute masked with another value, drawn without replacement with probability ~ 1 / d^2;
    where there are too few, rows with another attribute masked fill up.
    """
    if not len(group_M):
        return group_M, group_M.new_zeros(0, negatives)
    apart = torch.cdist(attributes_MA.double(), attributes_MA.double(), p=1)
    group, value = group_M[:, None] == group_M, (value_MP[:, None] == value_MP).all(2)
    luck = [
        (-(uniform(seed_M[:, None], seed_M, k).double() + 2.0**-25).log()).log() for k in range(2)
    ]
    far, near = (
        sign * 2 * apart.clamp(min=1e-12).log() - noise for sign, noise in zip((1, -1), luck)
    )
    far = far.masked_fill(~(group & value & (apart > 0)), -torch.inf)
    near = torch.where(group, near.masked_fill(value, -torch.inf), -1e4 - luck[1])
    best, positive = far.max(1)
    top, others = near.topk(min(negatives, len(near)), dim=1)
    return positive.masked_fill(best == -torch.inf, -1), others.masked_fill(top == -torch.inf, -1)


@full_precision
def attribute_contrast(z_MD: Tensor, positive_M: Tensor, others_MK: Tensor) -> Tensor:
    """Mean of -log(e^{z.p} / (e^{z.p} + sum_n e^{z.n})) over the rows that have a positive and
    another; plain dot products.

    positive_M, others_MK: of `draw_attribute_rows`. No such row gives a connected 0.
    """
    asked = (positive_M >= 0) & (others_MK >= 0).any(1)
    if not bool(asked.any()):
        return connected_zero(z_MD)
    z, others = z_MD[asked], others_MK[asked]
    own = (z * z_MD[positive_M[asked]]).sum(1, keepdim=True)
    wrong = (z[:, None] * z_MD[others.clamp(min=0)]).sum(2).masked_fill(others < 0, -torch.inf)
    return (torch.cat([own, wrong], 1).logsumexp(1) - own.squeeze(1)).mean()
