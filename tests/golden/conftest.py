"""What golden tests share."""

import numpy as np
import pytest
import torch

from amodal import methods, modalities
from amodal.nn.encoder import Encoder
from tests.golden import harness
from tests.methods import bench


@pytest.fixture
def larger_pictures(monkeypatch):
    """Of 4 by 4 patches, so that windows have places to be in, and cells several patches."""
    small = bench.fields

    def fields(names=bench.FIELDS):
        picture = modalities.make("image", size=32, channels=3, patch=8)
        return {n: picture if n == "picture" else m for n, m in small(tuple(names)).items()}

    monkeypatch.setattr(bench, "fields", fields)


@pytest.fixture
def other_encoder(monkeypatch):
    """Pages on an encoder with options of its own."""

    def use(**options):
        def made(name, sources, size, **of_page):
            torch.manual_seed(0)
            encoder = Encoder(bench.fields(tuple(sources)), size=size, **options)
            return methods.build(name, encoder, **of_page)

        monkeypatch.setattr(harness, "method", made)

    return use


@pytest.fixture
def other_fields(monkeypatch):
    """Fields in place of the bench's, or beside them."""

    def use(**changed):
        small, raw = bench.fields, bench.raw

        def made(names=bench.FIELDS):
            return {n: changed.get(n) or small((n,))[n] for n in names}

        def drawn(field, rng):
            if field != "photo":
                return raw(field, rng)
            return rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)

        monkeypatch.setattr(bench, "fields", made)
        monkeypatch.setattr(bench, "raw", drawn)

    return use


@pytest.fixture
def grouped_rasters(monkeypatch):
    """Rasters of two groups of bands, at two dates, in place of pictures."""

    def use(draw):
        """draw: rng -> a raw value."""
        small, other = bench.fields, bench.raw
        raster = modalities.make(
            "raster",
            bands=("a", "b", "c"),
            groups={"near": ["c", "a"]},
            size=12,
            patch=4,
            dates=2,
            resolution=10.0,
            mean=(0.1, 0.2, 0.3),
            std=(1.0, 2.0, 3.0),
        )

        def fields(names=bench.FIELDS):
            return {n: raster if n == "picture" else m for n, m in small(tuple(names)).items()}

        def raw(field, rng):
            return draw(rng) if field == "picture" else other(field, rng)

        monkeypatch.setattr(bench, "fields", fields)
        monkeypatch.setattr(bench, "raw", raw)

    return use
