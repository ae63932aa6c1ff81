"""Windows that slide over larger pictures, against loops."""

import pytest
import torch

from amodal.core import AmodalError, Batch, Column, Tokens
from amodal.maps.windows import enlarged, sliding, starts
from amodal.modalities import make
from amodal.nn.patch_vectors import token_grids

SIDE, PATCH = 16, 4


def patches(batch):
    """The mean colour of each patch, and how bright the whole window is."""
    column = batch.columns["image"]
    cells = column.values.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).mean((4, 5))
    n, _, rows, columns = cells.shape
    whole = column.values.mean((1, 2, 3))[:, None, None, None].expand(n, rows, columns, 1)
    x = torch.cat([cells.permute(0, 2, 3, 1), whole], 3).flatten(0, 2)
    place = torch.cartesian_prod(*(torch.arange(n).float() for n in (1, rows, columns)))
    lengths = torch.full((n,), rows * columns)
    return Tokens.of(x, column.rows, lengths, place.repeat(n, 1), "image", batch.size)


def batch(side, rows=(0, 2)):
    images = torch.rand(len(rows), 3, side, side, generator=torch.Generator().manual_seed(side))
    columns = {"image": Column(images, torch.tensor(rows, dtype=torch.int64))}
    return Batch.of(3, columns, ["a", "b", "c"])


@pytest.mark.parametrize("side", [16, 20, 28, 40])
def test_a_patch_is_the_mean_over_the_windows_that_show_it(side):
    whole = batch(side)
    tokens = sliding(patches, "image", SIDE)(whole)
    assert tokens.lengths().tolist() == [(side // PATCH) ** 2, 0, (side // PATCH) ** 2]
    begin = [PATCH * k for k in starts(side // PATCH, SIDE // PATCH)]
    assert begin[0] == 0 and begin[-1] == side - SIDE
    assert all(b - a <= SIDE // 2 for a, b in zip(begin, begin[1:]))
    for number, row in enumerate((0, 2)):
        grid, image = token_grids(tokens)[row], whole["image"].values[number]
        for r in range(side // PATCH):
            for c in range(side // PATCH):
                y, x = r * PATCH, c * PATCH
                colour = image[:, y : y + PATCH, x : x + PATCH].mean((1, 2))
                torch.testing.assert_close(grid[r, c, :3], colour)
                seen = [
                    image[:, a : a + SIDE, b : b + SIDE].mean()
                    for a in begin
                    for b in begin
                    if a <= y < a + SIDE and b <= x < b + SIDE
                ]
                torch.testing.assert_close(grid[r, c, 3], torch.stack(seen).mean())


def test_what_does_not_fit_is_said():
    with pytest.raises(AmodalError, match="multiple of it, such as 24"):
        sliding(patches, "image", SIDE)(batch(22))
    small = make("image", size=16, patch=4)
    assert enlarged(small, 32).size == 32
    with pytest.raises(AmodalError, match="not above the 16 pixels"):
        enlarged(small, 16)
    with pytest.raises(AmodalError, match="own shape"):
        enlarged(make("image", size=16, patch=4, fit="native"), 32)
    assert not len(sliding(patches, "image", SIDE)(batch(32, rows=())))
