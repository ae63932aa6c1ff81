"""InfoNCE with hard-negative weights, debiased for false negatives.

Robinson et al., ICLR 2021, arXiv:2010.04592, eq. 3-4 and 6 (hard negatives); Chuang et al., NeurIPS
2020, arXiv:2007.00224, eq. 8 (debiasing); between two sources: Choi et al. 2023, arXiv:2309.01262.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.tiles import by_rows


@full_precision
def hard_negative_nce(
    a_ND: Tensor,
    b_ND: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    beta: float = 1.0,
    prior: float = 0.1,
    within: bool = True,
    tile: int = 256,
) -> Tensor:
    """Debiased InfoNCE over all 2N anchors, negatives weighted by their similarity.

        L = mean -log( e^p / (e^p + M g) ),  p = cos(a_i, b_i) / temperature
        R = sum_j e^{(1 + beta) s_j} / sum_j e^{beta s_j},  s_j the logits of the M negatives
        g = max( (R - prior e^p) / (1 - prior), e^{-1 / temperature} )

    All terms are differences of logarithms, so no exponential of a logit overflows.

    Args:
        a_ND, b_ND: embeddings of the same N rows in two sources or views; normalised here.
        temperature: a number, or a scalar tensor that gets a gradient.
        beta: concentration. 0 weighs negatives equally; with prior 0 that is NT-Xent (InfoNCE if
            not `within`).
        prior: assumed share of negatives of the anchor's class, 0 <= prior < 1.
        within: True for the 2N - 2 values of other rows in both sources as negatives, False for
            the N - 1 of the other source.
        tile: anchors of a block of the similarity matrix; changes memory and speed, not the
            result.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, `temperature` is not above 0, `beta` is negative, or `prior`
            is outside [0, 1).
    """
    check_pair("hard_negative_nce", a_ND, b_ND)
    check_positive("temperature", temperature)
    if beta < 0 or not 0 <= prior < 1:
        raise ValueError(
            f"beta must be at least 0 and prior from 0 to below 1, got {beta} and {prior}."
        )
    n = len(a_ND)
    if n < 2:
        return connected_zero(a_ND, b_ND, temperature)
    a, b = F.normalize(a_ND, dim=1), F.normalize(b_ND, dim=1)
    anchors, others, row = (
        torch.cat([a, b]),
        torch.cat([b, a]),
        torch.arange(2 * n, device=a.device) % n,
    )
    side = torch.arange(2 * n, device=a.device) // n

    def hard_mean(anchor: Tensor, row_t: Tensor, side_t: Tensor) -> Tensor:
        """(t,) log R. The values of the anchor's own row are no negatives."""
        logits = anchor @ anchors.T / temperature
        excluded = row_t[:, None] == row
        if not within:
            excluded = excluded | (side_t[:, None] == side)
        logits = logits.masked_fill(excluded, -math.inf)
        weight = (beta * logits).logsumexp(1) if beta else (~excluded).sum(1).to(logits.dtype).log()
        return ((1 + beta) * logits).logsumexp(1) - weight

    positive = (anchors * others).sum(1) / temperature
    excess = by_rows(hard_mean, anchors, row, side, tile=tile) - positive  # log R - p
    floor = -1 / temperature - positive
    if prior:
        # log(e^excess - prior): below log prior there is nothing left but the floor, and no
        # gradient
        left = excess > math.log(prior)
        safe = torch.where(left, excess, torch.zeros_like(excess))
        corrected = safe + torch.log1p(-prior * (-safe).exp()) - math.log1p(-prior)
        excess = torch.where(left, corrected, floor)
    negatives = 2 * n - 2 if within else n - 1
    # -log(e^p / (e^p + M g)) = softplus(log M + log g - p)
    return F.softplus(math.log(negatives) + torch.maximum(excess, floor)).mean()
