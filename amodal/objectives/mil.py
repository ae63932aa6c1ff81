"""Matching bags: one score of many regions and many sentences, by permutation-invariant poolings.

Wang et al., Using Multiple Instance Learning to Build Multimodal Representations, IPMI 2023,
arXiv:2212.05561, section 3: S(X, Y) = rho_m pi_n <x_n, y_m> with pi over the regions x_n of an
image and rho over the sentences y_m of a text.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.bags import owners
from amodal.objectives.common import full_precision
from amodal.objectives.score_nce import score_nce

Pool = Callable[[Tensor, Tensor], Tensor]
"""scores (t, L, W), which regions exist (t, L) bool, at least one each -> (t, W)."""


def mean_pool(h_tLW: Tensor, there_tL: Tensor) -> Tensor:
    """The mean: with a dot product the score of the mean region, as in CLIP and ConVIRT."""
    there = there_tL[:, :, None]
    return h_tLW.masked_fill(~there, 0).sum(1) / there.sum(1)


def max_pool(h_tLW: Tensor, there_tL: Tensor) -> Tensor:
    """The best region."""
    return h_tLW.masked_fill(~there_tL[:, :, None], -torch.inf).amax(1)


def lse_pool(sharpness: float) -> Pool:
    """(1 / g) log((1 / L) sum_n exp(g h_n)): the mean where g is small, the best region where it is
    large."""

    def pool(h_tLW, there_tL):
        there = there_tL[:, :, None]
        total = (sharpness * h_tLW).masked_fill(~there, -torch.inf).logsumexp(1)
        return (total - there.sum(1).to(total.dtype).log()) / sharpness

    return pool


def attention_pool(sharpness: float) -> Pool:
    """sum_n softmax_n(g h_n) h_n: regions weighted by how well they fit, as in GLoRIA."""

    def pool(h_tLW, there_tL):
        weight = (sharpness * h_tLW).masked_fill(~there_tL[:, :, None], -torch.inf).softmax(1)
        return (weight * h_tLW).sum(1)

    return pool


def noisy_or_pool(sharpness: float, threshold: float = 0.5) -> Pool:
    """1 - prod_n (1 - p_n) with p_n = sigmoid(g (h_n - threshold)): the probability that any region
    fits, if they are independent."""

    def pool(h_tLW, there_tL):
        none = (
            F.logsigmoid(-sharpness * (h_tLW - threshold))
            .masked_fill(~there_tL[:, :, None], 0)
            .sum(1)
        )
        return -torch.expm1(none)

    return pool


def pooling(name: str, sharpness: float) -> Pool:
    """The pooling called "mean", "max", "lse", "attention" or "noisy_or". Raises AmodalError with
    the nearest names."""
    from amodal.core import unknown

    known = {
        "mean": mean_pool, "max": max_pool, "lse": lse_pool(sharpness), "attention": attention_pool(sharpness),
        "noisy_or": noisy_or_pool(sharpness),
    }  # fmt: skip
    if name not in known:
        raise unknown("pooling of regions", name, known)
    return known[name]


@full_precision
def bag_scores(
    regions_tLD: Tensor,
    there_tL: Tensor,
    words_WD: Tensor,
    lengths_N: Tensor,
    *,
    pool: Pool,
    total: bool = False,
) -> Tensor:
    """(t, N) scores of t bags of regions with N bags of words (or sentences): `pool` over regions,
    then the mean over words.

    words_WD, lengths_N:  the words of all N bags end to end, and how many each has.
    total:                the sum over words instead of their mean.

    Dot products are taken as they are; normalise before if they are to be cosines.
    """
    each_tW = pool(regions_tLD @ words_WD.T, there_tL)
    scores = each_tW.new_zeros(len(each_tW), len(lengths_N)).index_add(
        1, owners(lengths_N), each_tW
    )
    return scores if total else scores / lengths_N.clamp(min=1)


@full_precision
def bag_nce(
    regions_NLD: Tensor,
    there_NL: Tensor,
    lines_NKD: Tensor,
    *,
    temperature: float | Tensor,
    pool: Pool,
) -> Tensor:
    """InfoNCE in both directions between N bags of regions and N bags of K lines, scored by
    `bag_scores`; row i of both is a pair.

    No more than a tile of the scores of single regions is held. One bag or none gives a connected
    0.
    """
    words = lines_NKD.flatten(0, 1)
    lengths = torch.full(
        (len(lines_NKD),), lines_NKD.shape[1], dtype=torch.int64, device=words.device
    )

    def scores(block: Tensor, mask: Tensor) -> Tensor:
        return bag_scores(block, mask, words, lengths, pool=pool)

    return score_nce(
        scores, regions_NLD, there_NL, temperature=temperature, tile=bag_tile(there_NL, words)
    )


def bag_tile(there_NL: Tensor, words_WD: Tensor, *, cells: int = 2**22) -> int:
    """How many bags of regions `bag_scores` may take at once, so that it holds about `cells`
    products of regions and words."""
    return max(1, math.floor(cells / max(there_NL.shape[1] * len(words_WD), 1)))
