import pytest
import torch

from amodal.core import AmodalError, Tokens
from amodal.nn.grid_pool import grid_pool


def bag():
    """Row 0: 5 x 4 tokens of a picture; row 1: nothing; row 2: three tokens in time."""
    picture = torch.tensor([[0.0, y, x] for y in range(5) for x in range(4)])
    time = torch.tensor([[t, 0.0, 0.0] for t in (3.0, 4.0, 9.0)])
    torch.manual_seed(0)
    rows, lengths = torch.tensor([0, 2]), torch.tensor([20, 3])
    return Tokens.of(torch.randn(23, 6), rows, lengths, torch.cat([picture, time]), "image", 3)


@pytest.mark.parametrize("grid", (1, 2, 3))
def test_the_whole_and_then_the_mean_of_each_cell(grid):
    tokens = bag()
    whole = tokens.pool()
    found = grid_pool(tokens, whole, grid)
    assert found.rows.tolist() == [0, 2]
    for n, (row, vectors) in enumerate(zip((0, 2), found.values.split())):
        members = {}
        own = (tokens.row == row).nonzero().squeeze(1).tolist()
        position = tokens.position[own]
        for t in own if grid > 1 else ():
            cell = []
            for axis in (2, 1, 0):
                low, high = position[:, axis].min(), position[:, axis].max()
                part = (
                    0
                    if high == low
                    else int((tokens.position[t, axis] - low) / (high - low) * grid)
                )
                cell.append(min(part, grid - 1))
            members.setdefault(tuple(cell), []).append(tokens.x[t])
        expected = [whole.values[n], *(torch.stack(members[c]).mean(0) for c in sorted(members))]
        torch.testing.assert_close(vectors, torch.stack(expected))


def test_a_row_has_as_many_as_cells_have_tokens_in_them():
    found = grid_pool(bag(), bag().pool(), 2)
    assert found.values.lengths.tolist() == [5, 3]


def test_a_grid_without_cells_is_refused():
    with pytest.raises(AmodalError, match="at least one cell"):
        grid_pool(bag(), bag().pool(), 0)
