"""What golden tests share."""

import pytest

from amodal import modalities
from tests.methods import bench


@pytest.fixture
def larger_pictures(monkeypatch):
    """Of 4 by 4 patches, so that windows have places to be in, and cells several patches."""
    small = bench.fields

    def fields(names=bench.FIELDS):
        picture = modalities.make("image", size=32, channels=3, patch=8)
        return {n: picture if n == "picture" else m for n, m in small(tuple(names)).items()}

    monkeypatch.setattr(bench, "fields", fields)
