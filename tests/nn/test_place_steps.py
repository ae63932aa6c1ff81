"""Steps of tokens on the ground, and where on a plane tokens are."""

import pytest
import torch
from test_attention_bias import grid, rasters, tokens_of

from amodal import modalities
from amodal.core import AmodalError
from amodal.nn.attention.bias import ground_steps, simple_ratio
from amodal.nn.encoder import Encoder


@pytest.mark.parametrize("ratio, simple", [
    (1.0, 1), (1.004, 1), (20.59 / 10.3, 2), (1.5, 1.5), (4 / 3, 4 / 3), (1.2, 1.2), (1.21, 1.2),
    (2.331, 7 / 3), (59.7, 60), (1.94, 1.94), (1.06, 1.06),
])  # fmt: skip
def test_a_ratio_near_a_simple_fraction_is_that_fraction(ratio, simple):
    assert simple_ratio(ratio) == simple
    steps = ground_steps(rasters(fine=1.0, coarse=ratio, unknown=0.0))
    assert steps == {"fine": 1, "coarse": pytest.approx(simple, rel=1e-12), "unknown": 1}


def test_a_coarse_token_is_as_far_from_each_of_the_fine_ones_inside_it():
    encoder = Encoder(rasters(fine=10.0, coarse=20.0), size="nano", positions="alibi")
    places = encoder.trunks["fine"].bias
    fine, coarse = (places.centre(tokens_of(f, grid(n))) for f, n in (("fine", 4), ("coarse", 2)))
    assert torch.equal(fine, grid(4))
    distance = torch.cdist(coarse, fine)
    assert (distance < 1).sum(1).tolist() == [4] * 4
    torch.testing.assert_close(distance[distance < 1], torch.full((16,), 0.5**0.5).double())


@pytest.mark.parametrize("trunk", ["separate", "joint"])
def test_distances_do_not_mix_with_patches_that_each_step_draws(trunk):
    drawn = modalities.make("raster", bands=("a",), size=32, patch=8, patches=(2, 4, 8))
    with pytest.raises(AmodalError, match=r"patches=\[2, 4, 8\], and positions='alibi'"):
        Encoder({"drawn": drawn}, size="nano", positions="alibi", trunk=trunk)
    assert Encoder({"drawn": drawn}, size="nano", trunk=trunk).fields
