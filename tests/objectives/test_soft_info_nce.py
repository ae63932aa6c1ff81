"""soft_info_nce against loops over every element, torch's cross_entropy and info_nce."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.info_nce import info_nce
from amodal.objectives.soft_info_nce import SimilarityTargets, SparseTargets, soft_info_nce


def loops(a, b, p, temperature, back=None, smoothing=0.0, symmetric=True):
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)

    def one_way(x, y, q):
        total = 0.0
        for i in range(len(x)):
            logits = torch.stack([x[i] @ y[j] / temperature for j in range(len(y))])
            for j in range(len(y)):
                weight = (1 - smoothing) * q[i, j] + smoothing / len(y)
                total = total - weight * (logits[j] - logits.logsumexp(0))
        return total / len(x)

    there = one_way(a, b, p)
    return (there + one_way(b, a, p.T if back is None else back)) / 2 if symmetric else there


def weights(*shape, seed=3):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("symmetric", [True, False])
def test_dense_targets_are_the_formula(pair, same, smoothing, symmetric):
    t = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    a, b = pair(5, 4)[0], pair(7, 4)[1]
    p = weights(5, 7).requires_grad_()
    options = {"smoothing": smoothing, "symmetric": symmetric}
    same(
        lambda a, b, p, t: soft_info_nce(a, b, p, temperature=t, **options),
        lambda a, b, p, t: loops(a, b, p, t, **options),
        [a, b, p, t],
    )


def test_targets_of_the_way_back(pair, same):
    p, q = weights(5, 5), weights(5, 5, seed=4)
    same(
        lambda a, b: soft_info_nce(a, b, p, temperature=0.1, reverse_targets=q),
        lambda a, b: loops(a, b, p, 0.1, back=q),
        pair(5, 3),
    )


def test_sparse_targets_are_the_matrix_they_stand_for(pair, same):
    partner, shares = (
        torch.tensor([3, 1, 0, 0, 2]),
        weights(5),
    )  # row 1 is mixed with itself; rows 2 and 3 share a partner
    p = torch.diag(shares)
    for i in range(5):
        p[i, partner[i]] += 1 - shares[i]
    for reverse in (None, p):
        options = {"temperature": 0.1, "smoothing": 0.1}
        same(
            partial(
                soft_info_nce,
                targets=SparseTargets.mixup(partner, shares),
                reverse_targets=reverse,
                **options,
            ),
            partial(loops, p=p, back=reverse, **options),
            pair(5, 3),
        )


@pytest.mark.parametrize("tile", [1, 2, 100])
def test_similar_targets_are_a_softmax(pair, same, tile):
    def ours(a, b, u, v):
        return soft_info_nce(a, b, SimilarityTargets(u, v, 0.3), temperature=0.2, tile=tile)

    def matrix(a, b, u, v):
        return loops(a, b, (F.normalize(u, dim=1) @ F.normalize(v, dim=1).T / 0.3).softmax(1), 0.2)

    same(ours, matrix, [*pair(5, 3), *pair(5, 4, seed=1)])


def test_with_identity_it_is_info_nce_and_one_way_torchs_cross_entropy(pair, same):
    eye = torch.eye(6, dtype=torch.float64)
    same(
        lambda a, b: soft_info_nce(a, b, eye, temperature=0.1),
        lambda a, b: info_nce(a, b, temperature=0.1),
        pair(6, 4),
    )

    def torchs(a, b):
        logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1
        return F.cross_entropy(logits, torch.arange(6), label_smoothing=0.2)

    own = SparseTargets.mixup(torch.arange(6), weights(6))
    same(
        lambda a, b: soft_info_nce(a, b, own, temperature=0.1, smoothing=0.2, symmetric=False),
        torchs,
        pair(6, 4),
    )


def test_of_no_rows_and_of_one(pair):
    for n in (0, 1):
        a, b = pair(n, 3)
        loss = soft_info_nce(a, b, torch.ones(n, n), temperature=0.1)
        loss.backward()
        assert abs(loss.item()) < 1e-12 and a.grad.shape == b.grad.shape == (n, 3)


def test_errors_say_what_was_passed(pair):
    a, b = pair(5, 3)
    with pytest.raises(ValueError, match=r"targets must be of shape \(5, 5\), got \(4, 5\)"):
        soft_info_nce(a, b, torch.ones(4, 5), temperature=0.1)
    with pytest.raises(ValueError, match="smoothing"):
        soft_info_nce(a, b, torch.eye(5), temperature=0.1, smoothing=2.0)
    with pytest.raises(ValueError, match="one width"):
        soft_info_nce(a, b[:, :2], torch.eye(5), temperature=0.1)
