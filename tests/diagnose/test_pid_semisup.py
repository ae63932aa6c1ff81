"""pid_semisup: gates whose answer is known, bounds that hold for random tables, and each part
against a slow reference."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import null_space
from scipy.optimize import linprog, minimize

from amodal.diagnose import pid_semisup as page
from amodal.diagnose.pid_semisup import pid_semisup, synergy

# y of (x1, x2), both fair coins: redundancy, unique1, unique2, synergy in bits (Bertschinger et al.
# 2014, table 1)
GATES = {
    "and": (lambda a, b: a & b, (0.3113, 0, 0, 0.5)),
    "or": (lambda a, b: a | b, (0.3113, 0, 0, 0.5)),
    "xor": (lambda a, b: a ^ b, (0, 0, 0, 1)),
    "unique": (lambda a, b: a, (0, 1, 0, 0)),
}


def tables(n, shape=(2, 2, 2), seed=0):
    p = np.random.default_rng(seed).dirichlet(np.ones(math.prod(shape)), n)
    return torch.from_numpy(p).view(n, *shape)


def bounds(p, **options):
    return pid_semisup(p.sum(-2), p.sum(-3), p.sum(-1), **options)


@pytest.mark.parametrize("name", GATES)
def test_gates(name):
    gate, (redundancy, unique1, unique2, true) = GATES[name]
    p = torch.zeros(2, 2, 2)
    for a in (0, 1):
        for b in (0, 1):
            p[a, b, gate(a, b)] = 0.25
    found = bounds(p * 40)  # counts do as well
    got = [found.redundancy, found.unique1, found.unique2, synergy(p)]
    np.testing.assert_allclose(
        [float(v) for v in got], (redundancy, unique1, unique2, true), atol=2e-3
    )
    blind = (
        name == "xor"
    )  # pairs are independent, and so are labels of one field: nothing can be known from below
    assert (
        abs(float(found.lower) - (0 if blind else true)) < 2e-3
        and abs(float(found.upper) - true) < 2e-3
    )


def test_the_same_thing_seen_twice_has_no_synergy():
    p = torch.zeros(3, 3, 3)
    p[range(3), range(3), range(3)] = 1
    found = bounds(p)
    assert (
        abs(float(found.redundancy) - math.log2(3)) < 1e-6
        and float(found.upper) < 1e-6
        and float(synergy(p)) < 1e-6
    )
    assert all(abs(float(a) - 1) < 1e-3 for a in found.accuracy())


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 2, 4)])
def test_synergy_lies_between_the_bounds_and_the_best_accuracy_too(shape):
    p = tables(40, shape, seed=1)
    found, true = bounds(p, steps=300), synergy(p, steps=300)
    assert (found.lower <= true + 1e-4).all() and (true <= found.upper + 1e-4).all()
    assert (found.upper_greedy <= found.upper + 1e-9).all()
    low, high = found.accuracy()
    best = p.amax(-1).sum((-2, -1))
    assert (low <= best + 1e-4).all() and (best <= high + 1e-4).all()


def test_the_two_projections_against_a_general_solver():
    for p in tables(4, (2, 2, 2), seed=2):
        p1, p2, p12, start = p.sum(1), p.sum(0), p.sum(2), p.numpy().ravel()
        margins = np.array(
            [m.ravel() for y in range(2) for x in range(2) for m in _indicators(x, y)]
        )
        both = np.concatenate([margins, [_pair(a, b) for a in (0, 1) for b in (0, 1)]])

        def mutual_information(q):
            return float(page.information(torch.from_numpy(np.maximum(q, 0)).view(4, 2)))

        def conditional(q):
            q = np.maximum(q, 1e-300).reshape(2, 2, 2)
            m = q.sum(1)[:, None] * q.sum(0)[None] / q.sum((0, 1))
            return float((q * np.log2(q / m)).sum())

        for constraints, goal, ours in (
            (
                margins,
                mutual_information,
                page.information(page.unique_projection(p1, p2, 500).flatten(-3, -2)),
            ),
            (both, conditional, page.least_conditional(p1, p2, p12, 500)),
        ):
            free = null_space(constraints)

            def value(t, goal=goal, free=free, start=start):
                q = start + free @ t
                return goal(q) if q.min() >= 0 else np.inf

            least = minimize(
                value,
                np.zeros(free.shape[1]),
                method="Nelder-Mead",
                options={"xatol": 1e-9, "fatol": 1e-12},
            )
            assert (
                abs(least.fun - float(ours)) < 3e-4
            )  # where the least is at an edge, the last digits come slowly


def _indicators(x, y):
    one, two = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    one[x, :, y], two[:, x, y] = 1, 1
    return one, two


def _pair(a, b):
    m = np.zeros((2, 2, 2))
    m[a, b] = 1
    return m.ravel()


def test_no_coupling_has_less_entropy_than_the_meet_and_the_greedy_one_is_a_coupling():
    """The least entropy is at a corner of the couplings; corners are where linear goals are best."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        p, q = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(3))
        rows = [np.eye(4)[i][:, None].repeat(3, 1).ravel() for i in range(4)]
        columns = [np.eye(3)[j][None].repeat(4, 0).ravel() for j in range(3)]
        corners = [
            linprog(rng.normal(size=12), A_eq=rows + columns, b_eq=[*p, *q]).x for _ in range(60)
        ]
        least = min(float(page.entropy(torch.from_numpy(np.maximum(c, 0)))) for c in corners)
        p, q = torch.from_numpy(p), torch.from_numpy(q)
        low, greedy = page.entropy(page.meet(p, q)), page.entropy(page.greedy_coupling(p, q))
        assert (
            float(low) <= least + 1e-6
            and least <= float(greedy) + 1e-3
            and float(greedy) <= float(low) + 1 + 1e-9
        )
        assert abs(float(page.greedy_coupling(p, q).sum()) - 1) < 1e-9


def test_counts_of_different_records_are_brought_together():
    rng = np.random.default_rng(4)
    p = tables(1, (3, 3, 2), seed=5)[0]
    counts = [
        torch.from_numpy(rng.multinomial(4000, t.ravel().numpy()).reshape(t.shape))
        for t in (p.sum(1), p.sum(0), p.sum(2))
    ]
    p1, p2, p12 = page.agreeing(*(c.double() for c in counts))
    torch.testing.assert_close(p1.sum(0), p2.sum(0))
    torch.testing.assert_close(p1.sum(1), p12.sum(1))
    torch.testing.assert_close(p2.sum(1), p12.sum(0))
    assert float(pid_semisup(*counts, steps=200).lower) <= float(synergy(p)) + 0.05
    with pytest.raises(ValueError, match="are needed"):
        pid_semisup(counts[0], counts[1], counts[2][:2])
    with pytest.raises(ValueError, match="needs something"):
        pid_semisup(counts[0] * 0, counts[1], counts[2])
