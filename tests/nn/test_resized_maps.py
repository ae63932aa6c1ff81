"""Maps of patch vectors at another number of patches."""

import pytest
import torch
from torch.nn.functional import interpolate

from amodal.core import AmodalError, Tokens
from amodal.nn.resized_maps import resized_maps


def maps(*shapes, width=3, seed=0):
    """Tokens of a row for each shape; None for a row without any."""
    torch.manual_seed(seed)
    grids = [
        torch.cartesian_prod(*(torch.arange(n).double() for n in (1, *(s or (0, 0)))))
        for s in shapes
    ]
    lengths = torch.tensor([len(g) for g in grids])
    x, rows = torch.randn(int(lengths.sum()), width).double(), torch.arange(len(shapes))
    return Tokens.of(x, rows, lengths, torch.cat(grids).double(), "picture", len(shapes))


def test_each_row_is_resized_to_its_own_shape():
    shapes, wanted = [(4, 6), (6, 4), None, (4, 6), (3, 8)], [(2, 3), (3, 2), None, (2, 3), (2, 2)]
    large, small = maps(*shapes), maps(*wanted, seed=1)
    out, place = resized_maps(large, small), 0
    for row, (shape, other) in enumerate(zip(shapes, wanted)):
        if shape is None:
            continue
        own = large.x[large.row == row].view(1, *shape, 3).permute(0, 3, 1, 2)
        expected = interpolate(own, size=other, mode="bicubic", align_corners=False)[0]
        count = other[0] * other[1]
        torch.testing.assert_close(out[place : place + count], expected.flatten(1).T)
        place += count
    assert place == len(out)


def test_maps_of_one_size_stay_as_they_are():
    large = maps((2, 3), None, (3, 1))
    assert resized_maps(large, maps((2, 3), None, (3, 1), seed=1)) is large.x


def test_what_is_no_map_is_refused():
    large = maps((4, 4))
    with pytest.raises(AmodalError, match="no map"):
        resized_maps(large.keep(torch.arange(16) > 0), maps((2, 2)))
