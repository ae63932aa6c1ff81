"""Contrast of mixtures against loops over every element of the published sums."""

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.info_nce import info_nce
from amodal.objectives.mixup_nce import mixed_cross_entropy, mixup_nce, soft_clip

PARTNER = torch.tensor([2, 3, 4, 0, 1])
SHARES = torch.tensor([0.9, 0.3, 1.0, 0.05, 0.6], dtype=torch.float64)


def unit(x):
    return x / sum(v * v for v in x).sqrt()


def cross_entropy(logits_NN, p_NN):
    total = 0.0
    for i in range(len(logits_NN)):
        below = sum(logits_NN[i, j].exp() for j in range(len(logits_NN))).log()
        for j in range(len(logits_NN)):
            total = total - p_NN[i, j] * (logits_NN[i, j] - below)
    return total / len(logits_NN)


def test_m3co_is_the_published_formula(pair, same):
    def reference(a, b):
        n = len(a)
        mixed = [SHARES[i] * a[i] + (1 - SHARES[i]) * a[PARTNER[i]] for i in range(n)]
        s = torch.stack(
            [torch.stack([unit(mixed[i]) @ unit(b[j]) / 0.1 for j in range(n)]) for i in range(n)]
        )
        p = torch.zeros(n, n, dtype=torch.float64)
        for i in range(n):
            p[i, i] += SHARES[i]
            p[i, PARTNER[i]] += 1 - SHARES[i]
        return (cross_entropy(s, p) + cross_entropy(s.T, p.T)) / 2

    same(lambda a, b: mixup_nce(a, b, PARTNER, SHARES), reference, pair(5, 3))


def test_multi_soft_clip_is_the_published_formula(pair, same):
    def reference(a, b):
        n = len(a)
        s, alike = (
            torch.stack(
                [torch.stack([unit(x[i]) @ unit(b[j]) / 0.125 for j in range(n)]) for i in range(n)]
            )
            for x in (a, b)
        )
        p = torch.stack([alike[i].exp() / alike[i].exp().sum() for i in range(n)])
        return (cross_entropy(s, p) + cross_entropy(s.T, p)) / 2

    same(soft_clip, reference, pair(5, 3))


def test_unmixed_rows_are_info_nce(pair, same):
    whole = torch.ones(6)
    partner = torch.arange(6).roll(1)
    same(
        lambda a, b: mixup_nce(a, b, partner, whole, temperature=0.2),
        lambda a, b: info_nce(a, b, temperature=0.2),
        pair(6, 4),
    )


def test_mixed_labels_are_torchs_cross_entropy_with_probabilities(pair, same):
    logits = pair(5, 3)[0]
    y, other = torch.tensor([0, 1, 2, 2, 0]), torch.tensor([1, 1, 0, 2, 2])
    target = SHARES[:, None] * F.one_hot(y, 3) + (1 - SHARES)[:, None] * F.one_hot(other, 3)
    same(
        lambda x: mixed_cross_entropy(x, y, other, SHARES),
        lambda x: F.cross_entropy(x, target),
        [logits],
    )


def test_of_no_rows(pair):
    a, b = pair(0, 3)
    none = torch.zeros(0, dtype=torch.int64)
    for loss in (
        mixup_nce(a, b, none, none.double()),
        soft_clip(a, b),
        mixed_cross_entropy(a, none, none, none.double()),
    ):
        loss.backward()
        assert loss.item() == 0 and a.grad.shape == (0, 3)


def test_errors_say_what_was_passed(pair):
    with pytest.raises(ValueError, match="mixup_nce compares row i with row i"):
        mixup_nce(pair(5, 3)[0], pair(4, 3)[0], PARTNER, SHARES)
    with pytest.raises(ValueError, match="soft_clip compares row i with row i"):
        soft_clip(pair(5, 3)[0], pair(4, 3)[0])
