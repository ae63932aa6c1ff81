"""Masked margin softmax (MMS): InfoNCE whose positive must win by a margin, and in which rows of
one item are no negatives.

Ilharco, Zhang and Baldridge, CoNLL 2019, arXiv:1909.08782, eq. 2-4; as used by AVLnet
(arXiv:2006.09199).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision


@full_precision
def masked_margin_softmax(
    a_ND: Tensor,
    b_ND: Tensor,
    *,
    margin: float = 1e-3,
    temperature: float | Tensor = 1.0,
    group_N: Tensor | None = None,
) -> Tensor:
    """Sum of both directions of the mean of -log(e^(s_ii - margin) / (e^(s_ii - margin) + sum_j
    e^(s_ij))), s = cosine / temperature.

    a_ND, b_ND:   embeddings of the same N rows (cosine is taken here; the paper has plain
                  products).
    margin:       taken from the positive logit, after the temperature.
    group_N:      (N,) int64; j runs over rows of other groups than i's (negative numbers: of none).
                  Without it, over all rows but i.

    Fewer than two rows give a connected 0. Raises ValueError for unequal shapes and for a
    temperature that is not above 0.
    """
    check_pair("masked_margin_softmax", a_ND, b_ND)
    check_positive("temperature", temperature)
    if group_N is not None and group_N.shape != a_ND.shape[:1]:
        raise ValueError(
            f"masked_margin_softmax needs one group a row, got {tuple(group_N.shape)} for {len(a_ND)} rows."
        )
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND, temperature)
    logits = F.normalize(a_ND, dim=1) @ F.normalize(b_ND, dim=1).T / temperature
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = torch.where(own, logits - margin, logits)
    if group_N is not None:
        same = (group_N[:, None] == group_N) & (group_N >= 0) & ~own
        logits = logits.masked_fill(same, -math.inf)
    return logits.logsumexp(1).mean() + logits.logsumexp(0).mean() - 2 * logits.diagonal().mean()
