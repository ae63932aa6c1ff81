"""mv_info_nce, mv_dhel and their baselines against loops over samples and views, as the formulas
are printed."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.info_nce import nt_xent
from amodal.objectives.multi_view import average, multi_positive, mv_dhel, mv_info_nce, pairwise

LOSSES = (mv_info_nce, mv_dhel, multi_positive, pairwise, average)


def table(samples=6, views=3, width=4, patchy=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(
        samples, views, width, dtype=torch.float64, generator=generator
    ).requires_grad_()
    present = torch.ones(samples, views, dtype=torch.bool)
    if patchy:
        present[0, 0] = present[1, 2] = False
        present[2, 1:] = False  # one view
        present[3] = False  # none
    return z, present


def s(a, b, t):
    return torch.exp(F.cosine_similarity(a, b, dim=0) / t)


def naive_mv_info_nce(z, present, t):
    there = [[l for l in range(z.shape[1]) if present[i, l]] for i in range(len(z))]
    terms = []
    for i, own in enumerate(there):
        if len(own) > 1:
            above = sum(s(z[i, l], z[i, m], t) for l in own for m in own if l != m)
            below = sum(
                s(z[i, l], z[j, m], t)
                for l in own
                for j in range(len(z))
                for m in there[j]
                if (j, m) != (i, l)
            )
            terms.append(-torch.log(above / below))
    return sum(terms) / len(terms)


def naive_mv_dhel(z, present, t):
    terms = []
    for i in range(len(z)):
        own = [l for l in range(z.shape[1]) if present[i, l]]
        if len(own) > 1:
            above = sum(s(z[i, l], z[i, m], t) for l, m in itertools.combinations(own, 2))
            below = math.prod(
                sum(s(z[i, l], z[j, l], t) for j in range(len(z)) if j != i and present[j, l])
                for l in own
            )
            terms.append(-torch.log(above / below))
    return sum(terms) / len(terms)


def naive_multi_positive(z, present, t):
    every = [(i, l) for i in range(len(z)) for l in range(z.shape[1]) if present[i, l]]
    terms = []
    for i, l in every:
        below = sum(s(z[i, l], z[p], t) for p in every if p != (i, l))
        own = [-torch.log(s(z[i, l], z[p], t) / below) for p in every if p[0] == i and p[1] != l]
        if own:
            terms.append(sum(own) / len(own))
    return sum(terms) / len(terms)


def naive_pairwise(z, present, t):
    pairs = list(itertools.combinations(range(z.shape[1]), 2))
    both = [present[:, a] & present[:, b] for a, b in pairs]
    return sum(nt_xent(z[m, a], z[m, b], temperature=t) for m, (a, b) in zip(both, pairs)) / len(
        pairs
    )


def naive_average(z, present, t):
    total = 0.0
    for l in range(z.shape[1]):
        mine, rest = [], []
        for i in range(len(z)):
            others = [
                F.normalize(z[i, m], dim=0) for m in range(z.shape[1]) if m != l and present[i, m]
            ]
            if present[i, l] and others:
                mine.append(F.normalize(z[i, l], dim=0))
                rest.append(sum(others) / len(others))
        both, terms = mine + rest, []
        for k, one in enumerate(both):  # plain products: the mean is shorter than 1
            logits = [one @ other / t for j, other in enumerate(both) if j != k]
            partner = one @ both[(k + len(mine)) % len(both)] / t
            terms.append(torch.stack(logits).exp().sum().log() - partner)
        total = total + sum(terms) / len(terms)
    return total / z.shape[1]


@pytest.mark.parametrize("patchy", [False, True])
@pytest.mark.parametrize("views", [2, 3, 5])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_is_the_formula(loss, views, patchy, same):
    z, present = table(views=max(views, 3) if patchy else views, patchy=patchy)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    naive = globals()[f"naive_{loss.__name__}"]
    same(
        lambda z, t: loss(z, present, temperature=t, tile=4),
        lambda z, t: naive(z, present, t),
        [z, t],
    )


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_what_is_absent_is_not_read(loss):
    z, present = table()
    junk = z.detach().masked_fill(~present[:, :, None], math.nan).requires_grad_()
    value = loss(junk, present, temperature=0.3)
    value.backward()
    torch.testing.assert_close(value, loss(z, present, temperature=0.3))
    assert (junk.grad[~present] == 0).all() and junk.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_two_views_of_two_samples_and_less(loss):
    for samples, views in ((0, 3), (1, 3), (4, 1)):
        z, present = table(samples, views, patchy=False)
        value = loss(z, present, temperature=0.3)
        value.backward()
        assert value == 0 and z.grad is not None
    z, present = table(4, 3, patchy=False)
    present[:, 1:] = False  # nobody has two views
    value = loss(z, present, temperature=0.3)
    value.backward()
    assert value == 0 and (z.grad == 0).all()


def test_two_views_are_nt_xent_for_the_pairwise_family():
    z, present = table(views=2, patchy=False)
    expected = nt_xent(z[:, 0], z[:, 1], temperature=0.3)
    for loss in (multi_positive, pairwise, average):
        torch.testing.assert_close(loss(z, present, temperature=0.3), expected)


def test_a_view_that_one_sample_has_repels_nothing():
    z, present = table(4, 3, patchy=False)
    present[1:, 2] = False
    value = mv_dhel(z, present, temperature=0.3)
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all() and z.grad[0, 2].abs().sum() > 0


def test_errors_say_what_was_passed():
    z, present = table()
    with pytest.raises(ValueError, match=r"\(6, 3, 4\) and \(6, 2\)"):
        mv_dhel(z, present[:, :2], temperature=0.3)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        mv_info_nce(z, present, temperature=0.0)
