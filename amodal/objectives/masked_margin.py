"""Masked margin softmax (MMS): InfoNCE with a margin, and without false negatives of one group.

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
    """InfoNCE whose positive must win by a margin, the sum of both directions.

        L = mean_i -log( e^{s_ii - margin} / (e^{s_ii - margin} + sum_j e^{s_ij}) ) + (b -> a)

    s = cosine / temperature; the paper has plain products.

    Args:
        a_ND, b_ND: embeddings of the same N rows; normalised here.
        margin: subtracted from the positive logit, after the temperature.
        temperature: a number, or a scalar tensor that gets a gradient.
        group_N: int64; j runs over rows of other groups than i's. Negative numbers are of no
            group. None: over all rows but i.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, or `temperature` is not above 0.
    """
    check_pair("masked_margin_softmax", a_ND, b_ND)
    check_positive("temperature", temperature)
    if group_N is not None and group_N.shape != a_ND.shape[:1]:
        raise ValueError(
            f"masked_margin_softmax needs one group a row, got {tuple(group_N.shape)} for "
            f"{len(a_ND)} rows."
        )
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND, temperature)
    logits = F.normalize(a_ND, dim=1) @ F.normalize(b_ND, dim=1).T / temperature
    positive = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = torch.where(positive, logits - margin, logits)
    if group_N is not None:
        same = (group_N[:, None] == group_N) & (group_N >= 0) & ~positive
        logits = logits.masked_fill(same, -math.inf)
    return logits.logsumexp(1).mean() + logits.logsumexp(0).mean() - 2 * logits.diagonal().mean()
