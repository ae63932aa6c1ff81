"""Contrast of mixtures: M3Co, and MultiSClip, which takes over when mixing ends; and cross-entropy
of mixed labels.

Kumar et al. 2024, arXiv:2409.17777, eq. 3-6; mixtures of vectors after Kim et al. 2020 (MixCo),
arXiv:2010.06300; soft targets from a source's likeness to itself after Scotti et al. 2023,
arXiv:2305.18274.
"""

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, full_precision
from amodal.objectives.soft_info_nce import Similar, Sparse, soft_info_nce


@full_precision
def mixup_nce(
    a_ND: Tensor,
    b_ND: Tensor,
    partner_N: Tensor,
    kept_N: Tensor,
    *,
    temperature: float | Tensor = 0.1,
) -> Tensor:
    """Row i of a becomes kept_i a_i + (1 - kept_i) a_partner(i), which must find b_i, by kept_i,
    and b_partner(i), by the rest, among all b; and each b its mixtures. The mean of both
    directions.

    a_ND, b_ND: vectors of the same N rows, of any length (cosine is taken of the mixtures);
    partner_N: int64; kept_N: from 0 to 1. With kept 1 it is `info_nce`. No row gives a connected 0.
    Raises ValueError for unequal shapes.
    """
    check_pair("mixup_nce", a_ND, b_ND)
    kept = kept_N.to(a_ND.dtype)
    mixture = kept[:, None] * a_ND + (1 - kept)[:, None] * a_ND[partner_N]
    return soft_info_nce(mixture, b_ND, Sparse.mixed(partner_N, kept), temperature=temperature)


@full_precision
def soft_clip(a_ND: Tensor, b_ND: Tensor, *, temperature: float | Tensor = 0.125) -> Tensor:
    """Cross-entropy of softmax(cos(a_i, b_j) / t) under softmax(cos(b_i, b_j) / t); the same
    targets for the direction b -> a, and the mean of both. The targets receive gradients, as in the
    authors' code. No row gives a connected 0.

    a_ND, b_ND: vectors of the same N rows. Raises ValueError for unequal shapes.
    """
    check_pair("soft_clip", a_ND, b_ND)
    alike = Similar(b_ND, b_ND, temperature)
    return soft_info_nce(a_ND, b_ND, alike, temperature=temperature, back=alike)


@full_precision
def mixed_cross_entropy(
    logits_NC: Tensor, label_N: Tensor, other_N: Tensor, kept_N: Tensor
) -> Tensor:
    """Mean over rows of kept CE(label) + (1 - kept) CE(other): mixup's loss. No row gives a
    connected 0."""
    kept = kept_N.to(logits_NC.dtype)
    own, other = (F.cross_entropy(logits_NC, y, reduction="none") for y in (label_N, other_N))
    return (kept * own + (1 - kept) * other).sum() / max(len(logits_NC), 1)
