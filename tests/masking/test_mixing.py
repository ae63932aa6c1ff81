"""Mixing: draws that depend on seeds alone, and windows and mixtures against loops over every place
of every grid."""

import itertools

import pytest
import torch

from amodal.core import Ragged, Tokens
from amodal.masking import mixing


def seeds(n, seed=0):
    return torch.randint(-(2**62), 2**62, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_partners_are_one_ring_whatever_the_order_of_rows(n):
    seed, order = seeds(n), torch.randperm(n, generator=torch.Generator().manual_seed(1))
    partner = mixing.partners(seed)
    assert sorted(partner.tolist()) == list(range(n))
    if n > 1:
        assert (partner != torch.arange(n)).all()
        at, seen = 0, set()
        while at not in seen:
            seen.add(at)
            at = int(partner[at])
        assert len(seen) == n
    assert torch.equal(order[mixing.partners(seed[order])], partner[order])
    assert mixing.batch_seed(seed[order]) == mixing.batch_seed(seed)
    assert n < 7 or not torch.equal(partner, mixing.partners(seed, 1))


@pytest.mark.parametrize("alpha", [0.15, 0.2, 1.0])
def test_beta_has_the_moments_and_the_distribution_of_beta(alpha):
    drawn = mixing.beta(seeds(20000), alpha).double()
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert abs(drawn.mean() - 0.5) < 0.01
    assert abs(drawn.var() - 1 / (4 * (2 * alpha + 1))) < 0.005
    torch.manual_seed(0)
    theirs = torch.distributions.Beta(alpha, alpha).sample((20000,)).double()
    ends = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)  # float32 rounds some to 1
    shares = [
        torch.searchsorted(values.sort().values, ends) / len(values) for values in (drawn, theirs)
    ]
    assert (shares[0] - shares[1]).abs().max() < 0.02, "Kolmogorov and Smirnov's distance"
    assert mixing.beta(seeds(1)[0], alpha).shape == ()


def test_beta_refuses_what_it_cannot_draw():
    for alpha in (0.0, 2.0):
        with pytest.raises(ValueError, match="alpha of mixing"):
            mixing.beta(seeds(3), alpha)


def grid_lists(sizes, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([r * c for r, c in sizes])
    flat = torch.randn(int(lengths.sum()), width, dtype=torch.float64, generator=generator)
    return Ragged(flat, lengths), torch.tensor(sizes)


SIZES = [(4, 4), (3, 5), (1, 6), (4, 2), (1, 1)]


def test_the_best_window_is_the_best_of_all_places():
    values, grid = grid_lists(SIZES)
    score = Ragged(values.flat[:, 0], values.lengths)
    window = torch.tensor([(2, 2), (1, 3), (1, 2), (3, 1), (0, 0)])
    found = mixing.best_corners(score, grid, window)
    for i, part in enumerate(score.split()):
        (r, c), (h, w) = SIZES[i], window[i].tolist()
        table = part.view(r, c)
        places = list(itertools.product(range(r - h + 1), range(c - w + 1)))
        sums = [
            sum(float(table[y + a, x + b]) for a in range(h) for b in range(w)) for y, x in places
        ]
        assert tuple(found[i].tolist()) == places[max(range(len(places)), key=lambda k: sums[k])]


def test_the_first_of_equal_windows_and_of_no_rows():
    score, grid = Ragged(torch.ones(9), torch.tensor([9])), torch.tensor([[3, 3]])
    assert mixing.best_corners(score, grid, torch.tensor([[2, 2]])).tolist() == [[0, 0]]
    nothing = torch.zeros(0, 2, dtype=torch.int64)
    assert mixing.best_corners(Ragged(torch.zeros(0), nothing[:, 0]), nothing, nothing).shape == (
        0,
        2,
    )


def test_cutmix_and_mixup_are_what_loops_make_of_them():
    values, grid = grid_lists(SIZES)
    partner = torch.tensor([1, 0, 3, 2, 4])
    window, to = (
        torch.tensor([(2, 2), (2, 3), (1, 2), (1, 2), (0, 0)]),
        torch.tensor([(1, 2), (1, 0), (0, 4), (3, 0), (0, 0)]),
    )
    source = torch.tensor([(1, 3), (2, 1), (3, 0), (0, 2), (0, 0)])
    shares = torch.tensor([0.2, 1.0, 0.5, 0.0, 0.7], dtype=torch.float64)
    cut, mixed = (
        mixing.cutmix(values, grid, partner, window, to, source).split(),
        mixing.mixup(values, grid, partner, shares).split(),
    )
    tables = [part.view(r, c, -1) for part, (r, c) in zip(values.split(), SIZES)]
    for i, (r, c) in enumerate(SIZES):
        own, other = tables[i].clone(), tables[int(partner[i])]
        for a, b in itertools.product(range(int(window[i, 0])), range(int(window[i, 1]))):
            own[to[i, 0] + a, to[i, 1] + b] = other[source[i, 0] + a, source[i, 1] + b]
        assert torch.equal(cut[i].view_as(own), own)
        for y, x in itertools.product(range(r), range(c)):
            there = other[y * len(other) // r, x * other.shape[1] // c]
            expected = shares[i] * tables[i][y, x] + (1 - shares[i]) * there
            assert torch.allclose(mixed[i].view(r, c, -1)[y, x], expected)


def test_windows_fit_and_have_every_side_between_the_bounds():
    grid = torch.tensor([(14, 14)] * 2000)
    drawn = mixing.windows(grid, grid, torch.rand(2000, 1), 0.25, 0.75)
    assert sorted(set(drawn[:, 0].tolist())) == list(range(3, 11)) and torch.equal(
        drawn[:, 0], drawn[:, 1]
    )
    line = torch.tensor([(1, 8), (1, 8), (1, 1)])
    some = mixing.windows(
        line, torch.tensor([(1, 8), (1, 4), (1, 8)]), torch.tensor(0.999), 0.25, 0.75
    )
    assert some.tolist() == [[1, 6], [1, 3], [0, 0]]
    at = mixing.corners(grid, drawn, torch.rand(2000, 2))
    assert (at >= 0).all() and (at + drawn <= grid).all() and (at + drawn == grid).any()


def test_grids_of_pictures_sequences_and_uneven_rows():
    def bag(*positions):
        position = torch.cat([torch.tensor(p, dtype=torch.float32) for p in positions])
        lengths = torch.tensor([len(p) for p in positions])
        return Tokens.of(
            torch.zeros(len(position), 1),
            torch.arange(len(positions)),
            lengths,
            position,
            "s",
            len(positions) + 1,
        )

    picture = [(0, y, x) for y in range(2) for x in range(3)]
    assert mixing.grids(bag(picture, picture)).tolist() == [[2, 3], [2, 3]]
    sound = [(t, band, 0) for t in range(4) for band in range(2)]
    assert mixing.grids(bag(sound, sound[:4])).tolist() == [[4, 2], [2, 2]]
    words = [(t, 0, 0) for t in range(5)]
    assert mixing.grids(bag(words, words[:1])).tolist() == [[1, 5], [1, 1]]
    assert mixing.grids(bag(sound[:3], sound)).tolist()[0] == [1, 3], "not a full grid: a sequence"


def test_a_batch_has_one_size_of_windows_and_one_share():
    values, grid = grid_lists([(4, 4)] * 6)
    for seed in range(4):
        cut = mixing.in_windows(values, grid, seeds(6, seed), low=0.25, high=0.75)
        assert len(set(cut.lam.tolist())) == 1 and cut.lam[0] in (
            1 - 1 / 16,
            1 - 4 / 16,
            1 - 9 / 16,
        )
        changed = (cut.tokens.flat != values.flat).any(1).view(6, 16).sum(1)
        assert torch.equal(1 - changed / 16, cut.lam.float())
        mixed = mixing.everywhere(values, grid, seeds(6, seed), alpha=1.0)
        assert len(set(mixed.lam.tolist())) == 1
