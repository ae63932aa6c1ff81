"""AutoAugment: torchvision's policies and changes, by the draws of the record."""

import numpy as np
import pytest
import torch
from torchvision.transforms import autoaugment
from torchvision.transforms.functional import InterpolationMode

from amodal.core import AmodalError
from amodal.modalities import make
from amodal.modalities.shared import image_policies as policies

PICTURE = np.random.default_rng(0).integers(0, 256, (3, 20, 24), dtype=np.uint8)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("level", [0, 4, 9])
@pytest.mark.parametrize("name", sorted(policies.CHANGES))
def test_a_change_is_that_of_torchvision(name, level, sign):
    space = autoaugment.AutoAugment()._augmentation_space(10, (20, 24))
    magnitudes, signed = space[name]
    size = float(magnitudes[level]) if magnitudes.ndim else 0.0
    size = sign * size if signed else size
    image = torch.from_numpy(PICTURE)
    expected = autoaugment._apply_op(image, name, size, InterpolationMode.NEAREST, None)
    out = policies.CHANGES[name](image, level / policies.LAST, sign)
    assert (out.int() - expected.int()).abs().max() <= 1


def test_one_of_25_policies_is_drawn_by_the_record():
    assert len(policies.policies()) == 25
    used = {name for pair in policies.policies() for name, *_ in pair}
    assert used == set(policies.CHANGES)
    image = make("image", size=20)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    seen = [image.augment(PICTURE, "autoaugment", np.random.default_rng(s)) for s in range(40)]
    assert torch.equal(state, torch.get_rng_state())  # torch's generator is left alone
    assert all(v.shape == PICTURE.shape and v.dtype == np.uint8 for v in seen)
    assert len({v.tobytes() for v in seen}) > 15  # many policies do nothing to noise
    assert np.array_equal(seen[3], image.augment(PICTURE, "autoaugment", np.random.default_rng(3)))
    with pytest.raises(AmodalError, match="take the view strong"):
        image.augment(PICTURE[[0, 1, 2, 0]], "autoaugment", np.random.default_rng(0))
    metres = PICTURE.astype(np.float32) * 3 - 100  # black and white are those of the picture
    assert (metres.min(), metres.max()) == (-100, 665)
    for s in range(8):
        seen = image.augment(metres, "autoaugment", np.random.default_rng(s))
        same = image.augment(PICTURE, "autoaugment", np.random.default_rng(s))
        np.testing.assert_allclose(seen, same * 3.0 - 100, atol=1e-3)
