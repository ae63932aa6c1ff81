"""Scenes are cut into tiles that lie where they lay."""

import numpy as np
import pytest

from amodal.data.sets.shared.scenes import by_place, mean_difference, scene
from amodal.modalities.shared import geotiff
from tests.modalities.test_raster import tiff

pytest.importorskip("rasterio")


def test_tiles_hold_the_pixels_of_their_place():
    rng = np.random.default_rng(0)
    red, near = rng.integers(1, 2000, (2, 1, 34, 50)).astype(np.uint16)
    coarse = red[:, ::2, ::2]
    files = {"B04": tiff(red, ("x",)), "B08": tiff(near, ("x",))}
    parts = {
        "fine": (scene(files, 1e-4), 8),
        "coarse": (scene({"B04": tiff(coarse, ("x",), metres=20.0)}), 4),
    }
    columns = by_place(parts)
    # 34 pixels hold four whole tiles, 50 six
    assert len(columns["key"]) == 24 and columns["key"][7] == "r01-c01"
    tile = geotiff.read(columns["fine"][7])
    assert tile.bands == ("B04", "B08")
    np.testing.assert_allclose(tile.pixels[0], red[0, 8:16, 8:16] * 1e-4, rtol=1e-6)
    assert tile.transform == (10, 0, 500_080, 0, -10, 4_999_920)
    other = geotiff.read(columns["coarse"][7])
    assert other.transform == (20, 0, 500_080, 0, -20, 4_999_920)
    np.testing.assert_array_equal(other.pixels[0], coarse[0, 4:8, 4:8])
    a, b = (x[0, 8:16, 8:16].astype(float) for x in (near, red))
    assert mean_difference(columns["fine"], (1, 0))[7] == pytest.approx(((a - b) / (a + b)).mean())


def test_parts_of_the_split_are_blocks():
    pixels = np.ones((1, 40, 40), np.uint8)
    columns = by_place({"a": (scene({"x": tiff(pixels, ("x",))}), 1)})
    parts = np.array(columns["part"]).reshape(40, 40)
    assert {p: int((parts == p).sum()) for p in ("train", "valid", "test")} == {
        "train": 960,
        "valid": 320,
        "test": 320,
    }
    for part in ("valid", "test"):
        # blocks of one part share no side
        blocks = (parts == part)[::8, ::8]
        assert not (blocks[1:] & blocks[:-1]).any() and not (blocks[:, 1:] & blocks[:, :-1]).any()
