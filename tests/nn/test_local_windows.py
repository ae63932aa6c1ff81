"""Neighbourhoods are boxes of positions, rows of their own."""

import torch

from amodal.core import Tokens
from amodal.nn.local_windows import local_windows


def bag(grids):
    """Tokens of rows with a grid of (height, width) each; their x is (row, y, x)."""
    position, row = [], []
    for number, (h, w) in enumerate(grids):
        position.append(
            torch.cartesian_prod(torch.zeros(1), torch.arange(float(h)), torch.arange(float(w)))
        )
        row += [number] * (h * w)
    position, row = torch.cat(position), torch.tensor(row)
    x = torch.cat([row[:, None].float(), position[:, 1:]], 1)
    return Tokens(x, row, torch.zeros_like(row), position, ("image",), len(grids))


def test_a_grid_falls_into_quarters_and_a_line_into_halves():
    whole = bag([(4, 4), (1, 6), (1, 1), (0, 0), (3, 2)])
    pieces, owner = local_windows(whole, 2)
    assert owner.tolist() == [0] * 4 + [1] * 2 + [2] + [4] * 4 and pieces.size == 11
    assert pieces.lengths().tolist() == [4] * 4 + [3, 3] + [1] + [1, 1, 2, 2]
    first = pieces.x[pieces.row == 0]
    assert first.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert torch.equal(pieces.x[:, 0].long(), owner[pieces.row])
    assert torch.equal(pieces.position[:, 1:], pieces.x[:, 1:]) and (pieces.row.diff() >= 0).all()


def test_one_part_is_the_row_itself_and_rows_do_not_matter_to_each_other():
    whole = bag([(4, 4), (2, 3), (1, 5)])
    pieces, owner = local_windows(whole, 1)
    assert owner.tolist() == [0, 1, 2] and torch.equal(pieces.x, whole.x)
    alone, _ = local_windows(bag([(2, 3)]), 3)
    together, owner = local_windows(whole, 3)
    mine = owner[together.row] == 1
    assert torch.equal(alone.position, together.position[mine])
    assert torch.equal(alone.row, together.row[mine] - together.row[mine].min())
