"""Features of a value by windows: how much each window counts."""

from types import SimpleNamespace

import numpy as np
import torch

from amodal import modalities
from amodal.inference import dense


def test_windows_fade_at_their_border_also_where_the_value_is_shorter():
    """A scan that is one token high, in windows of eight: shares along the other axes matter."""
    volume = modalities.make("volume", size=(32, 8, 32), patch=(4, 4, 4))
    value = volume.decode(np.random.default_rng(0).normal(size=(64, 8, 4)))
    corners = dense.window_corners(volume.token_cells(value), volume)
    assert corners == [(0, 0, 0), (4, 0, 0), (8, 0, 0)]
    windows = {i: volume.window(value, corner) for i, corner in enumerate(corners)}
    batch = volume.collate([*windows.values()])
    row = torch.repeat_interleave(torch.arange(3), batch.lengths)
    tokens = SimpleNamespace(row=row, position=batch.flat[:, :3])
    place, share = dense._places(tokens, corners, windows, volume)
    assert (place.max(0) == (15, 1, 0)).all()
    first = share[(row.numpy() == 0) & (place[:, 1] == 0)]
    # eight tokens along x, of which the middle counts most; two along y count two thirds at most
    np.testing.assert_allclose(first, [2 / 9, 4 / 9, 6 / 9, 6 / 9, 6 / 9, 6 / 9, 4 / 9, 2 / 9])
