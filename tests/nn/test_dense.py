"""Dense heads put pixels where the patches were; masks are scored as scikit-learn does."""

import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score

from amodal.core import Column
from amodal.modalities.image import Image
from amodal.nn.heads.dense import DenseHead, SiameseHead, both, difference
from amodal.stats.mask_overlap import f1_and_iou


def test_pixels_come_back_where_they_were():
    image = Image(size=12, channels=2, patch=4, mean=(0.0, 0.0), std=(1.0, 1.0))
    pictures = torch.rand(3, 2, 12, 12)
    head = DenseHead(32, 4, classes=2)
    head.net = torch.nn.Identity()
    tokens = image.targets(
        pictures
    )  # a token that is its own pixels, in the order of the tokeniser
    torch.testing.assert_close(head(tokens, 3), pictures)
    assert DenseHead(8, 4, classes=2, hidden=5)(torch.zeros(27, 8), 3).shape == (3, 2, 12, 12)
    bag = image.tokenizer(8)(Column(pictures, torch.arange(3)), "picture", 3)
    assert DenseHead(8, 4)(bag.x, 3).shape == (3, 1, 12, 12)


def test_no_change_is_no_difference_and_a_change_is_local():
    torch.manual_seed(0)
    before = torch.randn(18, 8)
    after = before.clone()
    after[4] += 1
    head = SiameseHead(8, 2, hidden=6, combine=difference)
    still, moved = head(before, before, 3), head(before, after, 3)
    changed = (moved - still).abs() > 1e-6
    assert changed[0, 0, 2:4, 2:4].any() and not changed[1].any()
    changed[0, 0, 2:4, 2:4] = False
    assert not changed.any()
    torch.testing.assert_close(moved, head(after, before, 3))
    order = SiameseHead(8, 2, combine=both)
    assert not torch.allclose(order(before, after, 3), order(after, before, 3))


def test_f1_and_iou_are_scikit_learns():
    torch.manual_seed(0)
    guess, truth = torch.rand(4, 1, 8, 8) < 0.4, torch.rand(4, 1, 8, 8) < 0.3
    f1, iou = f1_and_iou(guess, truth)
    flat = truth.flatten().numpy(), guess.flatten().numpy()
    assert f1 == pytest.approx(f1_score(*flat)) and iou == pytest.approx(jaccard_score(*flat))
    none = torch.zeros(2, 2, dtype=torch.bool)
    assert f1_and_iou(none, none) == (1, 1) and f1_and_iou(none, ~none) == (0, 0)
    with pytest.raises(ValueError, match="one shape"):
        f1_and_iou(none, truth)
