"""mil_vl alone: what it refuses, and the map of a sentence."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.nn.patch_vectors import patch_vectors
from tests.methods.bench import batch, exact, method


def test_one_of_its_losses_must_be_left():
    with pytest.raises(AmodalError, match="compares nothing"):
        method("mil_vl", local=0.0, whole=0.0)
    for options, kind in (({"local": 0.0}, "whole"), ({"whole": 0.0}, "local")):
        m = method("mil_vl", sources=("picture", "words"), **options)
        assert list(m.losses(m.features(batch(m.views, sources=("picture", "words"))))) == [
            f"{kind}/picture~words"
        ]


def test_the_map_of_a_sentence_compares_the_regions_of_the_local_score():
    """What `amodal map --queries` lays over a picture is what the score pools."""
    sources = ("picture", "words")
    m, b = exact(method("mil_vl", sources=sources)), exact(batch(("weak",), sources=sources))
    regions = m.features(b).regions["picture"].values
    patches = patch_vectors(m.encoder, b, "picture")
    assert len(patches.x) == len(regions.flat) > b.size
    torch.testing.assert_close(patches.x.double(), regions.flat, rtol=1e-5, atol=1e-6)
