"""mil_vl alone: what it refuses."""

import pytest

from amodal.core import AmodalError
from tests.methods.bench import batch, method


def test_one_of_its_losses_must_be_left():
    with pytest.raises(AmodalError, match="compares nothing"):
        method("mil_vl", local=0.0, whole=0.0)
    for options, kind in (({"local": 0.0}, "whole"), ({"whole": 0.0}, "local")):
        m = method("mil_vl", sources=("picture", "words"), **options)
        assert list(m.losses(m.features(batch(m.views, sources=("picture", "words"))))) == [
            f"{kind}/picture~words"
        ]
