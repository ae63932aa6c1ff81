"""Margin losses against loops over the published sums."""

import pytest
import torch
import torch.nn.functional as F

from amodal.core import AmodalError
from amodal.objectives.margin import (
    contrastive_margin,
    hardest_negatives,
    ranking_hinge,
    ranking_hinge_of_scores,
    same_group,
    triplet_margin,
)

GROUPS = torch.tensor([3, 1, 3, 0, 1, 3, 7, 0])


def slow_hinge(scores, margin, over, symmetric):
    n, total = len(scores), 0.0
    for matrix in (scores, scores.T)[: 1 + symmetric]:
        for i in range(n):
            costs = [torch.relu(margin - matrix[i, i] + matrix[i, j]) for j in range(n) if j != i]
            total = (
                total
                + {"sum": sum(costs), "mean": sum(costs) / (n - 1), "hardest": max(costs)}[over]
            )
    return total / n


def distances(z):
    z = F.normalize(z, dim=1)
    return [[(a - b).norm() for b in z] for a in z]


def slow_contrastive(z, groups, margin, hardest):
    d, n, total = distances(z), len(z), 0.0
    for i in range(n):
        others = [j for j in range(n) if groups[j] != groups[i]]
        chosen = (
            sorted(others, key=lambda j: d[i][j].item())[:hardest]
            if hardest
            else [j for j in others if j > i]
        )
        total = total + sum(torch.relu(margin - d[i][j]) ** 2 for j in chosen)
        total = total + sum(d[i][j] ** 2 for j in range(i + 1, n) if groups[j] == groups[i])
    return total / n


def slow_triplet(z, groups, margin, mining):
    d, n, costs = distances(z), len(z), []
    for i in range(n):
        positives = [j for j in range(n) if j != i and groups[j] == groups[i]]
        negatives = [j for j in range(n) if groups[j] != groups[i]]
        if mining == "hardest":
            positives = sorted(positives, key=lambda j: -d[i][j].item())[:1]
        for p in positives:
            farther = (
                [j for j in negatives if d[i][j] > d[i][p]] if mining == "semihard" else negatives
            )
            nearest = min(farther, key=lambda j: d[i][j].item(), default=None)
            nearest = max(negatives, key=lambda j: d[i][j].item()) if nearest is None else nearest
            costs.append(torch.relu(margin + d[i][p] - d[i][nearest]))
    return sum(costs) / len(costs)


@pytest.mark.parametrize("over", ["sum", "mean", "hardest"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tile", [2, 256])
def test_ranking_hinge_is_the_sum_over_the_batch(pair, same, over, symmetric, tile):
    def reference(a, b):
        return slow_hinge(F.normalize(a, dim=1) @ F.normalize(b, dim=1).T, 0.3, over, symmetric)

    same(
        lambda a, b: ranking_hinge(a, b, margin=0.3, over=over, symmetric=symmetric, tile=tile),
        reference,
        pair(7, 5),
    )


@pytest.mark.parametrize("over", ["sum", "mean", "hardest"])
def test_ranking_hinge_of_scores(same, over):
    scores = torch.randn(
        6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    for symmetric in (True, False):
        same(
            lambda s, both=symmetric: ranking_hinge_of_scores(
                s, margin=1.0, over=over, symmetric=both
            ),
            lambda s, both=symmetric: slow_hinge(s, 1.0, over, both),
            [scores],
        )


@pytest.mark.parametrize("hardest", [0, 1, 2, 50])
@pytest.mark.parametrize("tile", [3, 256])
def test_contrastive_margin_is_the_sum_over_pairs(pair, same, hardest, tile):
    same(
        lambda z: contrastive_margin(z, GROUPS, margin=1.3, hardest=hardest, tile=tile),
        lambda z: slow_contrastive(z, GROUPS, 1.3, hardest),
        pair(8, 4)[:1],
    )


@pytest.mark.parametrize("mining", ["hardest", "semihard"])
@pytest.mark.parametrize("tile", [3, 256])
def test_triplet_margin_takes_the_triplets_it_says(same, mining, tile):
    for seed in range(5):
        z = torch.randn(
            8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        ).requires_grad_()
        same(
            lambda z: triplet_margin(z, GROUPS, margin=0.4, mining=mining, tile=tile),
            lambda z: slow_triplet(z, GROUPS, 0.4, mining),
            [z],
        )


def test_pairs_and_negatives():
    first, second = same_group(GROUPS)
    assert {frozenset(p) for p in zip(first.tolist(), second.tolist())} == set(
        map(frozenset, [(0, 2), (0, 5), (2, 5), (1, 4), (3, 7)])
    )
    z = torch.eye(3)[[0, 0, 1, 2]] + torch.tensor([[0.0], [0.0], [0.1], [0]])
    anchor, negative = hardest_negatives(z, torch.tensor([0, 0, 1, 1]), 1)
    assert anchor.tolist() == [0, 1, 2, 3] and negative.tolist()[:2] == [2, 2]


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: ranking_hinge(z, z * 2, margin=0.2),
        lambda z: ranking_hinge_of_scores(z @ z.T, margin=0.2),
        lambda z: contrastive_margin(z, torch.arange(len(z))) if len(z) < 2 else z.sum() * 0,
        lambda z: triplet_margin(z, torch.arange(len(z))),
        lambda z: triplet_margin(z, torch.zeros(len(z), dtype=torch.int64)),
    ],
)
def test_nothing_to_compare_is_a_connected_zero(loss):
    for n in (0, 1):
        z = torch.randn(n, 4, requires_grad=True)
        value = loss(z)
        value.backward()
        assert value == 0 and (z.grad == 0).all()


def test_equal_vectors_have_finite_gradients():
    z = torch.ones(6, 4, requires_grad=True)
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    for hardest in (0, 2):
        (contrastive_margin(z, groups, hardest=hardest) + triplet_margin(z, groups)).backward()
    assert z.grad.isfinite().all()


def test_errors():
    z = torch.randn(4, 3)
    with pytest.raises(AmodalError, match="Did you mean hardest"):
        ranking_hinge(z, z, margin=0.1, over="hardes")
    with pytest.raises(AmodalError, match="Did you mean semihard"):
        triplet_margin(z, torch.arange(4), mining="semi-hard")
    with pytest.raises(ValueError, match="above 0"):
        contrastive_margin(z, torch.arange(4), margin=0)
    with pytest.raises(ValueError, match="groups"):
        contrastive_margin(z, torch.arange(3))
    with pytest.raises(ValueError, match=r"\(N, N\)"):
        ranking_hinge_of_scores(z, margin=0.1)
