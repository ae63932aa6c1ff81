"""Losses that look at regions and sentences, against loops over every row, region and word."""

import math

import pytest
import torch
import torch.nn.functional as F

from amodal.core import AmodalError, Ragged
from amodal.objectives.grouping import group_patches
from amodal.objectives.mil import bag_scores, bag_tile, pooling
from amodal.objectives.packed import pad_packed
from amodal.objectives.score_nce import score_nce


@pytest.fixture
def bags():
    """Regions of 5 images (1 to 4 each) and words of 5 texts (0 to 3 each), float64, with
    gradients."""
    g = torch.Generator().manual_seed(0)
    regions = torch.randn(12, 3, dtype=torch.float64, generator=g).requires_grad_()
    words = torch.randn(8, 3, dtype=torch.float64, generator=g).requires_grad_()
    return regions, torch.tensor([3, 1, 4, 2, 2]), words, torch.tensor([2, 1, 0, 3, 2])


def test_padded_holds_every_value_and_nothing_else(bags):
    regions, lengths, *_ = bags
    block, there = pad_packed(Ragged(regions, lengths))
    assert block.shape == (5, 4, 3) and there.sum(1).tolist() == lengths.tolist()
    assert torch.equal(block[there], regions) and not block[~there].any()
    assert pad_packed(Ragged(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)))[0].shape == (
        0,
        1,
        3,
    )


def pooled(name, h, g):
    """One region list against one word, from the formulas."""
    if name == "mean":
        return sum(h) / len(h)
    if name == "max":
        return max(h)
    if name == "lse":
        return torch.log(sum(torch.exp(g * x) for x in h) / len(h)) / g
    if name == "attention":
        return sum(torch.exp(g * x) * x for x in h) / sum(torch.exp(g * x) for x in h)
    none = 1.0
    for x in h:
        none = none * (1 - 1 / (1 + torch.exp(-g * (x - 0.5))))
    return 1 - none


def slow_scores(regions, lengths, words, counts, name, g, total):
    rows = []
    for image in regions.split(lengths.tolist()):
        row = []
        for text in words.split(counts.tolist()):
            each = [pooled(name, [r @ w for r in image], g) for w in text]
            row.append(sum(each, regions.new_zeros(())) / (1 if total else max(len(text), 1)))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("name", ["mean", "max", "lse", "attention", "noisy_or"])
def test_bag_scores_are_the_formulas(bags, same, name, total):
    regions, lengths, words, counts = bags
    weight = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def ours(regions, words):
        block, there = pad_packed(Ragged(regions, lengths))
        return (
            weight * bag_scores(block, there, words, counts, pool=pooling(name, 2.0), total=total)
        ).sum()

    same(
        ours,
        lambda r, w: (weight * slow_scores(r, lengths, w, counts, name, 2.0, total)).sum(),
        [regions, words],
    )


def test_log_sum_exp_goes_from_mean_to_max(bags):
    regions, lengths, words, counts = (x.detach() for x in bags)
    block, there = pad_packed(Ragged(regions, lengths))
    at = lambda name, g: bag_scores(block, there, words, counts, pool=pooling(name, g))  # noqa: E731
    torch.testing.assert_close(at("lse", 1e-6), at("mean", 1.0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(at("lse", 1e5), at("max", 1.0), rtol=1e-4, atol=1e-4)
    with pytest.raises(AmodalError, match="Did you mean max"):
        pooling("maxx", 1.0)
    assert bag_tile(there, words, cells=100) == 3 and bag_tile(there, words, cells=1) == 1


def symmetric(logits):
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


@pytest.mark.parametrize("tile", [1, 2, 5, 100])
def test_score_nce_is_info_nce_of_the_whole_matrix(bags, same, tile):
    regions, lengths, words, counts = bags
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    pool = pooling("max", 1.0)

    def ours(regions, words, t):
        block, there = pad_packed(Ragged(regions, lengths))
        return score_nce(
            lambda b, m: bag_scores(b, m, words, counts, pool=pool),
            block,
            there,
            temperature=t,
            tile=tile,
        )

    same(
        ours,
        lambda r, w, t: symmetric(slow_scores(r, lengths, w, counts, "max", 1.0, False) / t),
        [regions, words, t],
    )


def test_score_nce_of_one_row_or_none_is_a_connected_zero():
    for n in (0, 1):
        a, b = (torch.randn(n, 4, requires_grad=True) for _ in range(2))
        loss = score_nce(lambda x, b=b: x @ b.T, a, temperature=0.1)
        loss.backward()
        assert loss == 0 and a.grad is not None and b.grad is not None
    with pytest.raises(ValueError, match="temperature must be above 0"):
        score_nce(lambda x: x @ x.T, torch.randn(3, 2), temperature=0.0)


def slow_groups(texts, patches, mask, threshold):
    out, weights = [], []
    for i in range(len(texts)):
        own = F.normalize(patches[i][mask[i]], dim=1)
        for text in F.normalize(texts[i], dim=1):
            s = torch.stack([text @ p for p in own])
            a = (s - s.min()) / (s.max() - s.min()) if len(own) > 1 else torch.ones_like(s)
            least = threshold if threshold else 1 / len(own)
            a = torch.stack([x if x >= least else x * 0 for x in a])
            w = a / a.sum()
            out.append(F.normalize(sum(x * p for x, p in zip(w, own)), dim=0))
            weights.append(w)
    return torch.stack(out).view(*texts.shape), weights


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.6])
def test_groups_are_the_papers(bags, same, threshold):
    regions, lengths, *_ = bags
    texts = torch.randn(
        5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    ).requires_grad_()
    weight = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def ours(texts, regions):
        block, there = pad_packed(Ragged(regions, lengths))
        return (weight * group_patches(texts, block, there, threshold=threshold)[0]).sum()

    def reference(texts, regions):
        block, there = pad_packed(Ragged(regions, lengths))
        return (weight * slow_groups(texts, block, there, threshold)[0]).sum()

    same(ours, reference, [texts, regions])
    block, there = pad_packed(Ragged(regions, lengths))
    _, found = group_patches(texts, block, there, threshold=threshold)
    assert not found[~there[:, None].expand_as(found)].any()
    torch.testing.assert_close(found.sum(2), torch.ones(5, 2, dtype=torch.float64))
    if threshold == 0.6:
        assert (found == 0).sum() > (~there).sum() * 2  # some patches that exist are left out


def test_groups_of_no_image_and_of_equal_patches():
    none, _ = group_patches(
        torch.zeros(0, 2, 3), torch.zeros(0, 1, 3), torch.zeros(0, 1, dtype=torch.bool)
    )
    assert none.shape == (0, 2, 3)
    patch = torch.ones(1, 3, 4, requires_grad=True)
    group, weights = group_patches(torch.randn(1, 2, 4), patch, torch.ones(1, 3, dtype=torch.bool))
    group.sum().backward()
    assert torch.allclose(weights, torch.tensor(1 / 3)) and patch.grad.isfinite().all()
    with pytest.raises(ValueError, match="an .N, L. mask"):
        group_patches(
            torch.zeros(2, 2, 3), torch.zeros(2, 4, 3), torch.ones(2, 3, dtype=torch.bool)
        )
    assert math.isclose(float(group.detach().norm(dim=2).mean()), 1, rel_tol=1e-5)
