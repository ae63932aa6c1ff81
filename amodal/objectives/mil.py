"""Multiple-instance matching: scores between bags of regions and bags of sentences.

Wang et al., Using Multiple Instance Learning to Build Multimodal Representations, IPMI 2023,
arXiv:2212.05561, section 3: S(X, Y) = rho_m pi_n <x_n, y_m>, with permutation-invariant poolings pi
over the regions x_n of an image and rho over the sentences y_m of a text.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import full_precision
from amodal.objectives.packed import row_index
from amodal.objectives.score_nce import score_nce

Pool = Callable[[Tensor, Tensor], Tensor]
"""scores (t, L, W), which regions exist (t, L) bool, at least one each -> (t, W)."""


def mean_pool(h_tLW: Tensor, mask_tL: Tensor) -> Tensor:
    """Mean over regions: for dot products the score of the mean region, as in CLIP."""
    mask = mask_tL[:, :, None]
    return h_tLW.masked_fill(~mask, 0).sum(1) / mask.sum(1)


def max_pool(h_tLW: Tensor, mask_tL: Tensor) -> Tensor:
    """Maximum over regions."""
    return h_tLW.masked_fill(~mask_tL[:, :, None], -torch.inf).amax(1)


def lse_pool(sharpness: float) -> Pool:
    """(1 / g) log((1 / L) sum_n exp(g h_n)), g the sharpness: mean if small, maximum if large."""

    def pool(h_tLW: Tensor, mask_tL: Tensor) -> Tensor:
        mask = mask_tL[:, :, None]
        total = (sharpness * h_tLW).masked_fill(~mask, -torch.inf).logsumexp(1)
        return (total - mask.sum(1).to(total.dtype).log()) / sharpness

    return pool


def attention_pool(sharpness: float) -> Pool:
    """sum_n softmax_n(g h_n) h_n, g the sharpness, as in GLoRIA."""

    def pool(h_tLW: Tensor, mask_tL: Tensor) -> Tensor:
        weight = (sharpness * h_tLW).masked_fill(~mask_tL[:, :, None], -torch.inf).softmax(1)
        return (weight * h_tLW).sum(1)

    return pool


def noisy_or_pool(sharpness: float, threshold: float = 0.5) -> Pool:
    """1 - prod_n (1 - p_n), p_n = sigmoid(g (h_n - threshold)), g the sharpness.

    The probability that any region fits, if regions are independent.
    """

    def pool(h_tLW: Tensor, mask_tL: Tensor) -> Tensor:
        log_none = (
            F.logsigmoid(-sharpness * (h_tLW - threshold))
            .masked_fill(~mask_tL[:, :, None], 0)
            .sum(1)
        )
        return -torch.expm1(log_none)

    return pool


def pooling(name: str, sharpness: float) -> Pool:
    """The pooling called "mean", "max", "lse", "attention" or "noisy_or".

    Raises:
        AmodalError: an unknown name; the message has the nearest ones.
    """
    from amodal.core import unknown

    poolings = {
        "mean": mean_pool,
        "max": max_pool,
        "lse": lse_pool(sharpness),
        "attention": attention_pool(sharpness),
        "noisy_or": noisy_or_pool(sharpness),
    }
    if name not in poolings:
        raise unknown("pooling of regions", name, poolings)
    return poolings[name]


@full_precision
def bag_scores(
    regions_tLD: Tensor,
    mask_tL: Tensor,
    words_WD: Tensor,
    lengths_N: Tensor,
    *,
    pool: Pool,
    total: bool = False,
) -> Tensor:
    """Scores of t bags of regions with N bags of words (or sentences).

    `pool` over regions, then the mean over words. Dot products are taken as they are; normalise
    before for cosines.

    Args:
        regions_tLD: regions, padded.
        mask_tL: bool, which regions exist.
        words_WD: words of all N bags, packed.
        lengths_N: number of words of each bag.
        pool: over regions.
        total: sum over words instead of the mean.

    Returns:
        (t, N)
    """
    pooled_tW = pool(regions_tLD @ words_WD.T, mask_tL)
    scores = pooled_tW.new_zeros(len(pooled_tW), len(lengths_N)).index_add(
        1, row_index(lengths_N), pooled_tW
    )
    return scores if total else scores / lengths_N.clamp(min=1)


@full_precision
def bag_nce(
    regions_NLD: Tensor,
    mask_NL: Tensor,
    lines_NKD: Tensor,
    *,
    temperature: float | Tensor,
    pool: Pool,
) -> Tensor:
    """InfoNCE in both directions between bags of regions and bags of lines, by `bag_scores`.

    No more than a tile of the scores of single regions is held.

    Args:
        regions_NLD: regions, padded.
        mask_NL: bool, which regions exist.
        lines_NKD: K lines of each row.
        temperature: a number, or a scalar tensor that gets a gradient.
        pool: over regions.

    Returns:
        A scalar. Fewer than two bags: 0, connected to the inputs.
    """
    words = lines_NKD.flatten(0, 1)
    lengths = torch.full(
        (len(lines_NKD),), lines_NKD.shape[1], dtype=torch.int64, device=words.device
    )

    def scores(block: Tensor, mask: Tensor) -> Tensor:
        return bag_scores(block, mask, words, lengths, pool=pool)

    return score_nce(
        scores, regions_NLD, mask_NL, temperature=temperature, tile=bag_tile(mask_NL, words)
    )


def bag_tile(mask_NL: Tensor, words_WD: Tensor, *, cells: int = 2**22) -> int:
    """Bags of regions that `bag_scores` takes at a time to hold about `cells` products."""
    return max(1, math.floor(cells / max(mask_NL.shape[1] * len(words_WD), 1)))
