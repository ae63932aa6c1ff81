"""Losses with a margin: ranking hinge over a batch, contrastive margin and triplets with mined
negatives.

Hinge over in-batch negatives: Kiros et al. 2014, arXiv:1411.2539, eq. 4 (sum); Faghri et al. 2018,
arXiv:1707.05612, eq. 6 (hardest). Contrastive margin: Hadsell et al. 2006, eq. 4, with the hard
negatives of CoLES, Babaev et al. 2022, arXiv:2002.08232, section 3.4. Triplets: Schroff et al.
2015, arXiv:1503.03832, section 3.2 (semi-hard); Hermans et al. 2017, arXiv:1703.07737, eq. 5 (batch
hard).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.core import unknown
from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.tiles import by_rows

OVER = ("sum", "mean", "hardest")
MINING = ("hardest", "semihard")
NEAR = 1e-12
"""Least squared distance: the root has no slope at 0."""


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
    """Mean over rows i of max(0, margin - s_ii + s_ij) over all j != i, s the cosine of a_i and
    b_j.

    a_ND, b_ND:  embeddings of the same N rows (cosine is taken here).
    over:        "sum" of the violations of a row, their "mean" over its N - 1 negatives, or the
                 "hardest" alone (VSE++).
    symmetric:   add the direction b -> a, max(0, margin - s_ii + s_ji).
    tile:        rows of the similarity matrix at a time; changes memory and speed, not the result.

    One row or none gives a connected 0. Raises ValueError for unequal shapes, AmodalError for an
    unknown `over`.
    """
    check_pair("ranking_hinge", a_ND, b_ND)
    if over not in OVER:
        raise unknown("way to take negatives together", over, OVER)
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND)
    a, b = F.normalize(a_ND, dim=1), F.normalize(b_ND, dim=1)
    own, place = (a * b).sum(1), torch.arange(len(a), device=a.device)

    def towards(other_ND: Tensor):
        return lambda x_tD, own_t, place_t: _violation(
            x_tD @ other_ND.T, own_t, place_t, margin, over
        )

    loss = by_rows(towards(b), a, own, place, tile=tile).mean()
    return loss + by_rows(towards(a), b, own, place, tile=tile).mean() if symmetric else loss


@full_precision
def ranking_hinge_of_scores(
    scores_NN: Tensor, *, margin: float, over: str = "sum", symmetric: bool = True
) -> Tensor:
    """`ranking_hinge` for scores that are no cosines: entry (i, j) says how well a_i and b_j go
    together, own pairs on the diagonal (region-word scores, cross-encoders). Raises ValueError
    unless the matrix is square."""
    if scores_NN.dim() != 2 or scores_NN.shape[0] != scores_NN.shape[1]:
        raise ValueError(
            f"ranking_hinge_of_scores needs (N, N) scores, got {tuple(scores_NN.shape)}."
        )
    if over not in OVER:
        raise unknown("way to take negatives together", over, OVER)
    if len(scores_NN) < 2:
        return connected_zero(scores_NN)
    own, place = scores_NN.diagonal(), torch.arange(len(scores_NN), device=scores_NN.device)
    loss = _violation(scores_NN, own, place, margin, over).mean()
    return loss + _violation(scores_NN.T, own, place, margin, over).mean() if symmetric else loss


def _violation(
    scores_tN: Tensor, own_t: Tensor, place_t: Tensor, margin: float, over: str
) -> Tensor:
    """(t,) how far the others of each row come within the margin of its own."""
    scores_tN = scores_tN.scatter(1, place_t.unsqueeze(1), -math.inf)
    if over == "hardest":
        return (margin - own_t + scores_tN.amax(1)).relu()
    total = (margin - own_t.unsqueeze(1) + scores_tN).relu().sum(1)
    return total / (scores_tN.shape[1] - 1) if over == "mean" else total


@full_precision
def contrastive_margin(
    z_ND: Tensor, group_N: Tensor, *, margin: float = 0.5, hardest: int = 5, tile: int = 256
) -> Tensor:
    """1/N (sum over pairs of one group of d^2 + sum over pairs of two groups of max(0, margin -
    d)^2), d the distance of unit vectors, up to 2.

    z_ND:     embeddings (normalised here); group_N: (N,) int64, rows of one group belong together.
    hardest:  each row meets the so many nearest rows of other groups (CoLES: 5); 0 for all of them,
              each pair once.

    Pairs of one group count once, pairs of two groups once for each row that picked the other. No
    pair at all gives a connected 0. Raises ValueError where the lengths differ or a number makes no
    sense.
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
        return (
            total + (margin - (z[anchor] - z[negative]).norm(dim=1)).relu().square().sum()
        ) / len(z)

    def repelled(z_tD: Tensor, group_t: Tensor) -> Tensor:
        distance = (2 - 2 * z_tD @ z.T).clamp(min=NEAR).sqrt()
        return ((margin - distance).relu().square() * (group_t.unsqueeze(1) != group_N)).sum(1)

    return (total + by_rows(repelled, z, group_N, tile=tile).sum() / 2) / len(z)


@full_precision
def triplet_margin(
    z_ND: Tensor, group_N: Tensor, *, margin: float = 0.2, mining: str = "hardest", tile: int = 256
) -> Tensor:
    """Mean of max(0, margin + d(anchor, positive) - d(anchor, negative)), d the distance of unit
    vectors.

    z_ND, group_N:  as in `contrastive_margin`.
    mining:         "hardest": for each row its farthest positive and its nearest negative;
                    "semihard": for each ordered pair of
                    one group the nearest negative that is farther than the positive, the farthest
                    if none is.

    Rows without a positive or without a negative do not count. None left: a connected 0.
    """
    _check_groups("triplet_margin", z_ND, group_N)
    if mining not in MINING:
        raise unknown("mining", mining, MINING)
    z = F.normalize(z_ND, dim=1)
    first, second = same_group(group_N)
    anchor, positive = torch.cat([first, second]), torch.cat([second, first])
    if mining == "hardest" and len(anchor):
        apart = (z[anchor] - z[positive]).norm(dim=1).detach()
        farthest = apart.new_zeros(len(z)).scatter_reduce(0, anchor, apart, "amax")
        chosen = (apart == farthest[anchor]).nonzero().squeeze(1)
        keep = torch.full((len(z),), -1, device=z.device).scatter(
            0, anchor[chosen], chosen
        )  # one of equals
        keep = keep[keep >= 0]
        anchor, positive = anchor[keep], positive[keep]
    if not len(anchor) or bool((group_N == group_N[:1]).all()):
        return connected_zero(z_ND)
    near = (z[anchor] - z[positive]).norm(dim=1)
    with torch.no_grad():
        bound = near if mining == "semihard" else torch.zeros_like(near) - 1
        negative = by_rows(
            lambda a, g, b: _beyond(z, group_N, a, g, b),
            z[anchor],
            group_N[anchor],
            bound,
            tile=tile,
        )
    return (margin + near - (z[anchor] - z[negative]).norm(dim=1)).relu().mean()


def same_group(group_N: Tensor) -> tuple[Tensor, Tensor]:
    """Two (P,) int64: all pairs of different rows of one group, each once."""
    order = torch.argsort(group_N, stable=True)
    ordered, firsts, seconds = group_N[order], [order[:0]], [order[:0]]
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
    """Two (P,) int64: each row with the `count` nearest rows (by product) of other groups, or with
    as many as there are."""
    count = min(count, len(z_ND))

    def nearest(z_tD: Tensor, group_t: Tensor) -> Tensor:
        closeness = (z_tD @ z_ND.T).masked_fill(group_t.unsqueeze(1) == group_N, -math.inf)
        value, place = closeness.topk(count, dim=1)
        return place.masked_fill(value == -math.inf, -1)

    negative = by_rows(nearest, z_ND, group_N, tile=tile)
    anchor, at = (negative >= 0).nonzero(as_tuple=True)
    return anchor, negative[anchor, at]


def _beyond(
    z_ND: Tensor, group_N: Tensor, anchor_tD: Tensor, group_t: Tensor, bound_t: Tensor
) -> Tensor:
    """(t,) the nearest row of another group that is farther than `bound_t`; the farthest if none
    is."""
    distance = (2 - 2 * anchor_tD @ z_ND.T).clamp(min=0).sqrt()
    other = group_t.unsqueeze(1) != group_N
    beyond = other & (distance > bound_t.unsqueeze(1))
    nearest = distance.masked_fill(~beyond, math.inf).argmin(1)
    return torch.where(beyond.any(1), nearest, distance.masked_fill(~other, -math.inf).argmax(1))


def _check_groups(name: str, z_ND: Tensor, group_N: Tensor) -> None:
    if z_ND.dim() != 2 or group_N.shape != z_ND.shape[:1]:
        raise ValueError(
            f"{name} needs (N, D) vectors and (N,) groups, got {tuple(z_ND.shape)} and {tuple(group_N.shape)}."
        )
