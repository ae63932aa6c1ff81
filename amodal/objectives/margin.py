"""Losses with a margin: ranking hinge, contrastive margin, and triplets with mined negatives.

Hinge over in-batch negatives: Kiros et al. 2014, arXiv:1411.2539, eq. 4 (sum); Faghri et al. 2018,
arXiv:1707.05612, eq. 6 (hardest). Contrastive margin: Hadsell et al. 2006, eq. 4, with the hard
negatives of CoLES, Babaev et al. 2022, arXiv:2002.08232, section 3.4. Triplets: Schroff et al.
2015, arXiv:1503.03832, section 3.2 (semi-hard); Hermans et al. 2017, arXiv:1703.07737, eq. 5 (batch
hard).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.core import unknown
from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.tiles import by_rows

REDUCTIONS = ("sum", "mean", "hardest")
MINING_STRATEGIES = ("hardest", "semihard")
MIN_SQUARED_DISTANCE = 1e-12
"""Lower bound of a squared distance under a root, which has no gradient at 0."""


@full_precision
def ranking_hinge(
    a_ND: Tensor,
    b_ND: Tensor,
    *,
    margin: float,
    over: str = "sum",
    symmetric: bool = True,
    tile: int = 256,
) -> Tensor:
    """Hinge on the cosines s_ij = cos(a_i, b_j) of a batch.

        L = mean_i sum_{j != i} max(0, margin - s_ii + s_ij)

    Args:
        a_ND, b_ND: embeddings of the same N rows; normalised here.
        margin: that a positive should win by.
        over: "sum" over the negatives of a row, their "mean", or the "hardest" alone (VSE++).
        symmetric: add the direction b -> a, max(0, margin - s_ii + s_ji).
        tile: rows of the similarity matrix at a time; changes memory and speed, not the result.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ.
        AmodalError: an unknown `over`.
    """
    check_pair("ranking_hinge", a_ND, b_ND)
    if over not in REDUCTIONS:
        raise unknown("way to take negatives together", over, REDUCTIONS)
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND)
    a, b = F.normalize(a_ND, dim=1), F.normalize(b_ND, dim=1)
    positive, index = (a * b).sum(1), torch.arange(len(a), device=a.device)

    def violations(other_ND: Tensor) -> Callable[..., Tensor]:
        return lambda x_tD, positive_t, index_t: _violation(
            x_tD @ other_ND.T, positive_t, index_t, margin, over
        )

    loss = by_rows(violations(b), a, positive, index, tile=tile).mean()
    return (
        loss + by_rows(violations(a), b, positive, index, tile=tile).mean() if symmetric else loss
    )


@full_precision
def ranking_hinge_of_scores(
    scores_NN: Tensor, *, margin: float, over: str = "sum", symmetric: bool = True
) -> Tensor:
    """`ranking_hinge` for scores other than cosines (region-word scores, cross-encoders).

    Args:
        scores_NN: score of a_i and b_j at (i, j), positives on the diagonal.
        margin, over, symmetric: as in `ranking_hinge`.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the input.

    Raises:
        ValueError: the matrix is not square.
        AmodalError: an unknown `over`.
    """
    if scores_NN.dim() != 2 or scores_NN.shape[0] != scores_NN.shape[1]:
        raise ValueError(
            f"ranking_hinge_of_scores needs (N, N) scores, got {tuple(scores_NN.shape)}."
        )
    if over not in REDUCTIONS:
        raise unknown("way to take negatives together", over, REDUCTIONS)
    if len(scores_NN) < 2:
        return connected_zero(scores_NN)
    positive, index = scores_NN.diagonal(), torch.arange(len(scores_NN), device=scores_NN.device)
    loss = _violation(scores_NN, positive, index, margin, over).mean()
    return (
        loss + _violation(scores_NN.T, positive, index, margin, over).mean() if symmetric else loss
    )


def _violation(
    scores_tN: Tensor, positive_t: Tensor, index_t: Tensor, margin: float, over: str
) -> Tensor:
    """(t,) how far the negatives of each row come within the margin of its positive."""
    # the positive violates nothing: the relu of -inf is 0, with a gradient of 0
    scores_tN = scores_tN.scatter(1, index_t.unsqueeze(1), -math.inf)
    if over == "hardest":
        return (margin - positive_t + scores_tN.amax(1)).relu()
    total = (margin - positive_t.unsqueeze(1) + scores_tN).relu().sum(1)
    return total / (scores_tN.shape[1] - 1) if over == "mean" else total


@full_precision
def contrastive_margin(
    z_ND: Tensor, group_N: Tensor, *, margin: float = 0.5, hardest: int = 5, tile: int = 256
) -> Tensor:
    """Pull pairs of one group together, push pairs of two groups a margin apart.

        L = 1/N ( sum_{same group} d^2 + sum_{other groups} max(0, margin - d)^2 )

    d is the distance of unit vectors, up to 2. Pairs of one group count once, pairs of two groups
    once for each row that picked the other.

    Args:
        z_ND: embeddings; normalised here.
        group_N: int64.
        margin: above 0.
        hardest: number of nearest negatives of each row (CoLES: 5); 0 for all, each pair once.
        tile: rows of the similarity matrix at a time.

    Returns:
        A scalar. Without any pair: 0, connected to the input.

    Raises:
        ValueError: lengths differ, `margin` is not above 0, or `hardest` is negative.
    """
    _check_groups("contrastive_margin", z_ND, group_N)
    check_positive("margin", margin)
    if hardest < 0:
        raise ValueError(f"hardest is a number of negatives, at least 0, got {hardest}.")
    if len(z_ND) < 2:
        return connected_zero(z_ND)
    z = F.normalize(z_ND, dim=1)
    first, second = same_group(group_N)
    total = (z[first] - z[second]).square().sum()
    if hardest:
        anchor, negative = hardest_negatives(z, group_N, hardest, tile=tile)
        pushed: Tensor = (margin - (z[anchor] - z[negative]).norm(dim=1)).relu().square().sum()
        return (total + pushed) / len(z)

    def repelled(z_tD: Tensor, group_t: Tensor) -> Tensor:
        distance = (2 - 2 * z_tD @ z.T).clamp(min=MIN_SQUARED_DISTANCE).sqrt()
        return ((margin - distance).relu().square() * (group_t.unsqueeze(1) != group_N)).sum(1)

    return (total + by_rows(repelled, z, group_N, tile=tile).sum() / 2) / len(z)


@full_precision
def triplet_margin(
    z_ND: Tensor, group_N: Tensor, *, margin: float = 0.2, mining: str = "hardest", tile: int = 256
) -> Tensor:
    """Triplet loss with mined negatives, d the distance of unit vectors.

        L = mean max(0, margin + d(anchor, positive) - d(anchor, negative))

    Args:
        z_ND: embeddings; normalised here.
        group_N: int64.
        margin: of the hinge.
        mining: "hardest" takes each row's farthest positive and nearest negative. "semihard" takes
            for each ordered pair of one group the nearest negative that is farther than the
            positive, or the farthest negative if there is none.
        tile: rows of the similarity matrix at a time.

    Returns:
        A scalar over rows that have a positive and a negative. Without one: 0, connected to the
        input.

    Raises:
        ValueError: lengths differ.
        AmodalError: an unknown `mining`.
    """
    _check_groups("triplet_margin", z_ND, group_N)
    if mining not in MINING_STRATEGIES:
        raise unknown("mining", mining, MINING_STRATEGIES)
    z = F.normalize(z_ND, dim=1)
    first, second = same_group(group_N)
    anchor, positive = torch.cat([first, second]), torch.cat([second, first])
    if mining == "hardest" and len(anchor):
        distance = (z[anchor] - z[positive]).norm(dim=1).detach()
        farthest = distance.new_zeros(len(z)).scatter_reduce(0, anchor, distance, "amax")
        chosen = (distance == farthest[anchor]).nonzero().squeeze(1)
        # one of equals
        keep = torch.full((len(z),), -1, device=z.device).scatter(0, anchor[chosen], chosen)
        keep = keep[keep >= 0]
        anchor, positive = anchor[keep], positive[keep]
    if not len(anchor) or bool((group_N == group_N[:1]).all()):
        return connected_zero(z_ND)
    near = (z[anchor] - z[positive]).norm(dim=1)
    with torch.no_grad():
        bound = near if mining == "semihard" else torch.zeros_like(near) - 1
        negative = by_rows(
            lambda a, g, b: _semihard(z, group_N, a, g, b),
            z[anchor],
            group_N[anchor],
            bound,
            tile=tile,
        )
    hinge: Tensor = (margin + near - (z[anchor] - z[negative]).norm(dim=1)).relu()
    return hinge.mean()


def same_group(group_N: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of different rows of one group, each once: two int64 (P,)."""
    order = torch.argsort(group_N, stable=True)
    ordered, firsts, seconds = group_N[order], [order[:0]], [order[:0]]
    # rows of one group stand together now: pairs that are `step` apart, until no group is as large
    for step in range(1, len(order)):
        same = (ordered[step:] == ordered[:-step]).nonzero().squeeze(1)
        if not len(same):
            break
        firsts.append(order[same])
        seconds.append(order[same + step])
    return torch.cat(firsts), torch.cat(seconds)


@torch.no_grad()
def hardest_negatives(
    z_ND: Tensor, group_N: Tensor, count: int, *, tile: int = 256
) -> tuple[Tensor, Tensor]:
    """The `count` nearest rows of other groups, by inner product, for each row.

    Args:
        z_ND: embeddings.
        group_N: int64.
        count: negatives of a row, or as many as there are.
        tile: rows of the similarity matrix at a time.

    Returns:
        Anchors and negatives, two int64 (P,).
    """
    count = min(count, len(z_ND))

    def nearest(z_tD: Tensor, group_t: Tensor) -> Tensor:
        similarity = (z_tD @ z_ND.T).masked_fill(group_t.unsqueeze(1) == group_N, -math.inf)
        value, index = similarity.topk(count, dim=1)
        return index.masked_fill(value == -math.inf, -1)

    negative = by_rows(nearest, z_ND, group_N, tile=tile)
    anchor, column = (negative >= 0).nonzero(as_tuple=True)
    return anchor, negative[anchor, column]


def _semihard(
    z_ND: Tensor, group_N: Tensor, anchor_tD: Tensor, group_t: Tensor, bound_t: Tensor
) -> Tensor:
    """(t,) the nearest negative that is farther than `bound_t`; the farthest if there is none."""
    distance = (2 - 2 * anchor_tD @ z_ND.T).clamp(min=0).sqrt()
    other = group_t.unsqueeze(1) != group_N
    eligible = other & (distance > bound_t.unsqueeze(1))
    nearest = distance.masked_fill(~eligible, math.inf).argmin(1)
    return torch.where(eligible.any(1), nearest, distance.masked_fill(~other, -math.inf).argmax(1))


def _check_groups(name: str, z_ND: Tensor, group_N: Tensor) -> None:
    if z_ND.dim() != 2 or group_N.shape != z_ND.shape[:1]:
        raise ValueError(
            f"{name} needs (N, D) vectors and (N,) groups, got {tuple(z_ND.shape)} and "
            f"{tuple(group_N.shape)}."
        )
