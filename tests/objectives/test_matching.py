"""Image-text matching against torch's cross-entropy; hard negatives against the chances they should
be drawn with."""

import pytest
import torch
import torch.nn.functional as F

from amodal.core import row_seeds
from amodal.objectives.matching import hard_negatives, matching, sample_negatives


@pytest.mark.parametrize("n, m", [(3, 6), (2, 0), (0, 1)])
def test_matching_is_cross_entropy_of_labelled_pairs(same, n, m):
    generator = torch.Generator().manual_seed(0)
    logits = [
        torch.randn(k, dtype=torch.float64, generator=generator).requires_grad_() for k in (n, m)
    ]
    labels = torch.cat([torch.ones(n), torch.zeros(m)]).double()
    same(
        matching, lambda a, b: F.binary_cross_entropy_with_logits(torch.cat([a, b]), labels), logits
    )


def test_no_pair_is_a_connected_zero():
    a, b = torch.zeros(0, requires_grad=True), torch.zeros(0, requires_grad=True)
    loss = matching(a, b)
    loss.backward()
    assert loss == 0 and a.grad is not None and b.grad is not None


def test_negatives_come_as_often_as_their_similarity_says(pair):
    a, b = (t.detach() for t in pair(5, 3))
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.7
    chance = logits.fill_diagonal_(-torch.inf).softmax(1)
    draws = 20_000
    own = torch.arange(5).repeat(draws)
    drawn = sample_negatives(
        logits.repeat(draws, 1), own, row_seeds([f"{i}" for i in range(5 * draws)])
    ).view(draws, 5)
    found = torch.stack([(drawn == j).double().mean(0) for j in range(5)], 1)
    torch.testing.assert_close(
        found, chance, rtol=0, atol=0.012
    )  # 3.4 deviations of the least certain of 25 shares
    assert not found.diagonal().any()


@pytest.mark.parametrize("tile", [1, 3, 1024])
def test_the_same_seeds_draw_the_same_rows(pair, tile):
    a, b = pair(9, 4)
    seeds = row_seeds([str(i) for i in range(9)])
    drawn = hard_negatives(a, b, seeds, temperature=0.1, tile=tile)
    assert (
        torch.equal(drawn, hard_negatives(a, b, seeds, temperature=0.1))
        and (drawn != torch.arange(9)).all()
    )
    assert not torch.equal(
        drawn, hard_negatives(a, b, row_seeds([str(i) for i in range(9)], salt=1), temperature=1.0)
    )


def test_the_order_of_the_rows_does_not_matter(pair):
    a, b = pair(9, 4)
    seeds = row_seeds([str(i) for i in range(9)])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    drawn = hard_negatives(a, b, seeds, temperature=0.3)
    reordered = hard_negatives(a[order], b[order], seeds[order], temperature=0.3)
    assert torch.equal(order[reordered], drawn[order])


def test_rows_of_the_same_group_are_no_negatives(pair):
    a, b = pair(6, 4)
    group = torch.tensor([0, 0, 0, 1, 1, 0])
    drawn = hard_negatives(a, b, row_seeds(list("abcdef")), temperature=0.1, group_N=group)
    assert (group[drawn] != group).all()
    alone = hard_negatives(
        a, b, row_seeds(list("abcdef")), temperature=0.1, group_N=torch.zeros(6, dtype=torch.int64)
    )
    assert (alone == -1).all()
    assert hard_negatives(a[:1], b[:1], row_seeds("a"), temperature=1.0).tolist() == [-1]
    assert len(hard_negatives(a[:0], b[:0], row_seeds([]), temperature=1.0)) == 0
