"""Contrast of mixtures: M3Co, its successor MultiSClip when mixing ends, and mixup's cross-entropy.

Kumar et al. 2024, arXiv:2409.17777, eq. 3-6; mixtures of vectors after Kim et al. 2020 (MixCo),
arXiv:2010.06300; soft targets from a source's similarity to itself after Scotti et al. 2023,
arXiv:2305.18274.
"""

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, full_precision
from amodal.objectives.soft_info_nce import SimilarityTargets, SparseTargets, soft_info_nce


@full_precision
def mixup_nce(
    a_ND: Tensor,
    b_ND: Tensor,
    partner_N: Tensor,
    lam_N: Tensor,
    *,
    temperature: float | Tensor = 0.1,
) -> Tensor:
    """InfoNCE of mixtures, the mean of both directions.

    Row i of a becomes lam_i a_i + (1 - lam_i) a_partner(i). Its targets among all b are b_i with
    weight lam_i and b_partner(i) with 1 - lam_i. The same for the mixtures of b. lam = 1 is
    `info_nce`.

    Args:
        a_ND, b_ND: embeddings of the same N rows; normalised here, after mixing.
        partner_N: int64.
        lam_N: mixing coefficients in [0, 1].
        temperature: a number, or a scalar tensor that gets a gradient.

    Returns:
        A scalar. Without rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("mixup_nce", a_ND, b_ND)
    lam = lam_N.to(a_ND.dtype)
    mixture = lam[:, None] * a_ND + (1 - lam)[:, None] * a_ND[partner_N]
    return soft_info_nce(
        mixture, b_ND, SparseTargets.mixup(partner_N, lam), temperature=temperature
    )


@full_precision
def soft_clip(a_ND: Tensor, b_ND: Tensor, *, temperature: float | Tensor = 0.125) -> Tensor:
    """InfoNCE with b's similarities to itself as targets, in both directions.

        L = mean_i H( softmax_j(cos(b_i, b_j) / t), softmax_j(cos(a_i, b_j) / t) )

    The direction b -> a has the same targets. Targets get gradients, as in the authors' code.

    Args:
        a_ND, b_ND: embeddings of the same N rows; normalised here.
        temperature: t.

    Returns:
        A scalar, the mean of both directions. Without rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("soft_clip", a_ND, b_ND)
    similarity = SimilarityTargets(b_ND, b_ND, temperature)
    return soft_info_nce(
        a_ND, b_ND, similarity, temperature=temperature, reverse_targets=similarity
    )


@full_precision
def mixed_cross_entropy(
    logits_NC: Tensor, label_N: Tensor, partner_label_N: Tensor, lam_N: Tensor
) -> Tensor:
    """Cross-entropy of mixup.

        L = mean_i lam_i CE(label_i) + (1 - lam_i) CE(partner_label_i)

    Args:
        logits_NC: scores of the mixtures.
        label_N, partner_label_N: int64.
        lam_N: mixing coefficients in [0, 1].

    Returns:
        A scalar. Without rows: 0, connected to the logits.
    """
    lam = lam_N.to(logits_NC.dtype)
    own_loss, partner_loss = (
        F.cross_entropy(logits_NC, y, reduction="none") for y in (label_N, partner_label_N)
    )
    return (lam * own_loss + (1 - lam) * partner_loss).sum() / max(len(logits_NC), 1)
