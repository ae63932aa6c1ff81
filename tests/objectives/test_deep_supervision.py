"""Cross-entropy of pixels, its sum over stages, and intersection over union, against the
definitions."""

import math

import pytest
import torch
from sklearn.metrics import jaccard_score

from amodal.core import AmodalError
from amodal.objectives.deep_supervision import IGNORE_INDEX, deep_supervision, pixel_cross_entropy
from amodal.stats.mask_overlap import mean_iou


def reference(logits, target):
    terms = []
    for n in range(len(target)):
        for i in range(target.shape[1]):
            for j in range(target.shape[2]):
                if (k := int(target[n, i, j])) != IGNORE_INDEX:
                    scores = logits[n, :, i, j].tolist()
                    terms.append(math.log(sum(map(math.exp, scores))) - scores[k])
    return sum(terms) / len(terms)


def test_pixels_count_alike_and_unknown_ones_do_not():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.randint(0, 4, (2, 3, 3))
    target[0, :2] = IGNORE_INDEX
    assert abs(pixel_cross_entropy(logits, target).item() - reference(logits, target)) < 1e-12
    half = torch.randn(2, 4, 1, 1, dtype=torch.float64)  # scores of one place, brought to nine
    assert (
        abs(pixel_cross_entropy(half, target).item() - reference(half.expand(2, 4, 3, 3), target))
        < 1e-12
    )
    whole = pixel_cross_entropy(logits, torch.tensor([1, 3]))
    mean = logits.mean((2, 3))[:, :, None, None]
    assert abs(whole.item() - reference(mean, torch.tensor([1, 3]).view(2, 1, 1))) < 1e-12


def test_stages_are_weighed():
    torch.manual_seed(1)
    target = torch.randint(0, 3, (2, 4, 4))
    logits, deep = torch.randn(2, 3, 4, 4), [torch.randn(2, 3, k, k) for k in (2, 4)]
    each = [pixel_cross_entropy(x, target) for x in (logits, *deep)]
    torch.testing.assert_close(
        deep_supervision(logits, deep, target), each[0] + 0.5 * each[1] + 0.6 * each[2]
    )
    with pytest.raises(ValueError, match="2 stages and 1 weights"):
        deep_supervision(logits, deep, target, weights=(1.0,))


def test_nothing_known_is_a_zero_with_a_graph():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 3, 3), IGNORE_INDEX))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()
    assert pixel_cross_entropy(logits[:0], torch.zeros(0, 3, 3).long()) == 0
    with pytest.raises(ValueError, match="not of the same rows"):
        pixel_cross_entropy(logits, torch.zeros(2, 3, 3).long())


def test_mean_iou_is_the_mean_jaccard_score_of_the_classes_there_are():
    torch.manual_seed(2)
    guess, truth = torch.randint(0, 4, (2, 5, 5)), torch.randint(0, 3, (2, 5, 5))
    expected = jaccard_score(truth.flatten(), guess.flatten(), average="macro")
    assert abs(mean_iou(guess, truth, 6) - expected) < 1e-6
    hidden = truth.clone()
    hidden[0] = IGNORE_INDEX
    expected = jaccard_score(truth[1].flatten(), guess[1].flatten(), average="macro")
    assert abs(mean_iou(guess, hidden, 6) - expected) < 1e-6
    with pytest.raises(ValueError, match="one shape"):
        mean_iou(guess, truth[:1], 4)
    with pytest.raises(AmodalError, match="no pixel"):
        mean_iou(guess, torch.full_like(guess, IGNORE_INDEX), 4)
