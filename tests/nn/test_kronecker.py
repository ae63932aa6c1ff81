"""Attention over channels and places is that by the Kronecker product of two matrices, which is
never formed."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from amodal.core import Tokens
from amodal.core.tokens import METRES, WAVELENGTH
from amodal.nn.attention.kronecker import KroneckerAttention, line_softmax
from amodal.nn.channel_grid import grid_of
from amodal.nn.fusion.less_trunk import LessBlock

SIDE = 10.0


def tokens(rows, width=16, *, missing=0.0, seed=0):
    """Tokens of each of `rows`, (channels, rows and columns of places); `missing`: the share of
    cells without one."""
    random = torch.Generator().manual_seed(seed)
    row, place, wave = [], [], []
    for number, (channels, down, across) in enumerate(rows):
        grid = torch.cartesian_prod(
            torch.arange(down), torch.arange(across), torch.arange(channels)
        )
        there = torch.rand(len(grid), generator=random) >= missing
        there[0] = True
        grid = grid[there].double()
        row += [number] * len(grid)
        place.append(torch.cat([torch.zeros(len(grid), 1).double(), grid[:, :2]], 1))
        wave.append(400 + 100 * grid[:, 2])
    count = len(row)
    return Tokens(
        torch.randn(count, width, generator=random, dtype=torch.float64),
        torch.tensor(row),
        torch.zeros(count, dtype=torch.int64),
        torch.cat(place),
        ("field",),
        len(rows),
        {METRES: torch.full((count,), SIDE).double(), WAVELENGTH: torch.cat(wave)},
    )


def lines(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("rank", [1, 3])
def test_it_equals_attention_by_the_dense_kronecker_matrix(rank):
    """Of two rows with other numbers of channels and places, class lines among them."""
    heads, d_c, width = 2, 4, 16
    torch.manual_seed(0)
    attention = KroneckerAttention(width, heads, d_c, rank).double()
    d_s = attention.place_width
    grid = grid_of(tokens([(3, 2, 2), (2, 1, 3)]))
    channels, places = (
        lines(len(axis.row_S), heads * d, seed)
        for seed, (axis, d) in enumerate(((grid.channels, d_c), (grid.places, d_s)))
    )
    layouts = grid.channels.layout, grid.places.layout
    made = attention(channels, places, layouts, grid.channel_G, grid.place_G)
    expected = torch.full_like(made, torch.nan)
    for row in range(2):
        c, n = (torch.where(axis.row_S == row)[0] for axis in (grid.channels, grid.places))
        a_c, v_c = matrices(attention.channels, channels[c], heads, rank)
        a_s, v_s = matrices(attention.places, places[n], heads, rank)
        parts = []
        for head in range(heads):
            values = torch.einsum("ca,nb->cnab", v_c[head], v_s[head]).reshape(-1, d_c * d_s)
            dense = sum(torch.kron(a_c[head, r], a_s[head, r]) for r in range(rank))
            assert dense.shape == (len(c) * len(n),) * 2
            parts.append(dense @ values)
        out = attention.out(torch.cat(parts, 1))
        mine = grid.row_G == row
        index_c = torch.searchsorted(c, grid.channel_G[mine])
        index_n = torch.searchsorted(n, grid.place_G[mine])
        expected[mine] = out[index_c * len(n) + index_n]
    torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)


def matrices(axis, x, heads, rank):
    """(H, R, S, S) attention and (H, S, d) values, as in the paper."""
    x = axis.norm(x)
    d = x.shape[1] // heads
    qk = axis.qk(x).reshape(len(x), 2, heads, rank, d)
    q, k = qk[:, 0].permute(1, 2, 0, 3), qk[:, 1].permute(1, 2, 0, 3)
    return (q @ k.transpose(2, 3) / d**0.5).softmax(3), axis.v(x).reshape(-1, heads, d).transpose(
        0, 1
    )


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has."""

    most = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, torch.Tensor):
                self.most = max(self.most, one.numel())
        return out


def test_no_tensor_has_as_many_numbers_as_pairs_of_cells():
    """Forward and backward: cells times a width, channels squared or places squared at most."""
    channels, side, width, heads = 40, 6, 16, 2
    places = side * side
    block = LessBlock(width, heads, channel_width=4).double()
    bag = tokens([(channels, side, side)])
    with Largest() as seen:
        grid = grid_of(bag, radius=25.0)
        x = grid.start(bag.x, *(torch.zeros(width).double() for _ in range(3)))
        block(x.requires_grad_(), grid).sum().backward()
    cells = (channels + 1) * (places + 1)
    allowed = 4 * width * cells + heads * ((channels + 1) ** 2 + 3 * (places + 1) ** 2)
    assert seen.most <= allowed < cells**2 / 10


def test_cells_without_a_token_take_no_part():
    """A row gives the same whatever stands beside it, and cells that are left out move others only
    as far as they were read."""
    torch.manual_seed(0)
    block = LessBlock(16, 2, channel_width=4).double()
    bag = tokens([(4, 2, 3), (2, 3, 1), (1, 1, 1)], missing=0.4)
    assert len(bag) < 4 * 6 + 2 * 3 + 1

    def run(part):
        grid = grid_of(part)
        x = grid.start(part.x, *(torch.full((16,), v).double() for v in (0.1, 0.2, 0.3)))
        return block(x, grid), grid

    whole, grid = run(bag)
    for row in range(3):
        alone, _ = run(bag.keep(bag.row == row))
        torch.testing.assert_close(whole[grid.row_G == row], alone, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("radius, reached", [(0.0, 6), (10.0, 2), (25.0, 3), (1000.0, 6)])
def test_places_attend_within_the_radius_in_metres(radius, reached):
    """Of six places in a line, 10 m apart; the class line reads all, and all read it."""
    torch.manual_seed(0)
    attention = KroneckerAttention(16, 2, 4).double()
    bag = tokens([(2, 1, 6)])
    grid = grid_of(bag, radius=radius)
    column = bag.position[grid.places.first_S[1:], 2]  # of each place, behind the class line
    x = lines(7, 2 * attention.place_width, 0).requires_grad_()
    out = attention.places(x, grid.places.layout)

    def read(line):
        (gradient,) = torch.autograd.grad(out[line].square().sum(), x, retain_graph=True)
        return gradient.abs().sum(1) > 0

    first = read(1 + int(column.argmin()))
    assert first[0] and first[1:].tolist() == (column < reached).tolist()
    assert read(0).all()


def test_fields_on_other_grounds_are_at_no_distance():
    bag = tokens([(2, 1, 6)])
    bag = Tokens(bag.x, bag.row, bag.source, bag.position, bag.names, bag.size)  # no metres known
    layout = grid_of(bag, radius=10.0).places.layout
    assert not layout.is_biased


def test_the_softmax_of_lines():
    score, line = torch.randn(7, 2).double(), torch.tensor([1, 0, 1, 2, 2, 1, 0])
    made = line_softmax(score, line, 3)
    for number in range(3):
        torch.testing.assert_close(made[line == number], score[line == number].softmax(0))
    assert line_softmax(score + 1e4, line, 3).isfinite().all()
