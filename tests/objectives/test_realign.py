"""Realignment against the published formula in loops, and what it promises; row cosines against
torch's."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.realign import cosine, cosines, realign, row_cosines


def vectors(count, width=6, seed=0):
    x = torch.randn(
        count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return {f"term {i}": v for i, v in enumerate(x)}


def by_hand(gradients):
    """g_i' = g_i - sum over conflicts of <g_i, g_j> / |g_j|^2 g_j, with the original g; then the
    sum."""
    grads, total = (
        [v.tolist() for v in gradients.values()],
        [0.0] * len(next(iter(gradients.values()))),
    )
    for i, g in enumerate(grads):
        new = list(g)
        for j, h in enumerate(grads):
            inner = sum(a * b for a, b in zip(g, h))
            if i != j and inner < 0:
                new = [n - inner / sum(b * b for b in h) * b for n, b in zip(new, h)]
        total = [t + n for t, n in zip(total, new)]
    return torch.tensor(total, dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_published_projection(count, seed):
    gradients = vectors(count, seed=seed)
    torch.testing.assert_close(realign(gradients), by_hand(gradients))


def test_of_two_that_conflict_neither_undoes_the_other():
    g, h = torch.tensor([1.0, 0.5, 1e-9]), torch.tensor([-0.8, 1.0, 1e-9])
    assert g @ h < 0
    new_g, new_h = g - (g @ h) / (h @ h) * h, h - (g @ h) / (g @ g) * g
    assert abs(new_g @ h) < 1e-6 and abs(new_h @ g) < 1e-6
    torch.testing.assert_close(realign({"g": g, "h": h}), new_g + new_h)
    torch.testing.assert_close(realign({"g": g, "h": -h}), g - h, msg="no conflict: the sum")


def test_only_what_both_move_is_compared():
    g, h = torch.tensor([1.0, 2.0, 0.0, 5.0]), torch.tensor([-1.0, 1.0, 7.0, 0.0])
    assert cosine(g, h) == pytest.approx(1 / 10**0.5)
    g = torch.tensor([1.0, 0.0, 0.0, 5.0])
    assert cosine(g, h) == pytest.approx(-1)
    torch.testing.assert_close(realign({"g": g, "h": h}), torch.tensor([0.0, 1.0, 7.0, 5.0]))
    assert cosine(g, torch.zeros(4)) == 0
    torch.testing.assert_close(realign({"g": g, "none": torch.zeros(4)}), g)


def test_every_two_have_a_cosine():
    gradients = vectors(3)
    found = cosines(gradients)
    assert list(found) == list(itertools.combinations(gradients, 2))
    for (a, b), value in found.items():
        torch.testing.assert_close(value, F.cosine_similarity(gradients[a], gradients[b], dim=0))


def test_rows_go_by_their_lowest_cosine():
    a, b, c = (torch.randn(5, 3, generator=torch.Generator().manual_seed(i)) for i in range(3))
    b[1], a[2], b[2], c[3] = 0, 0, 0, 0
    found = row_cosines([a, b, c])
    pairs = [F.cosine_similarity(x, y) for x, y in itertools.combinations([a, b, c], 2)]
    expected = torch.stack([torch.stack([p[i] for p in pairs]).min() for i in range(5)])
    expected[1], expected[2], expected[3] = pairs[1][1], 1.0, pairs[0][3]
    torch.testing.assert_close(found, expected.clamp(max=1))
    assert row_cosines([a]).tolist() == [1] * 5 and row_cosines([a[:0], b[:0]]).shape == (0,)
