"""What a backdoor does, measured."""

import numpy as np
import pytest
import torch

from amodal.evaluate.backdoor import attack_success, nearest_class, trigger_shift


def test_attack_success_counts_the_others_taken_for_the_target():
    classes = torch.eye(3)
    shown = torch.tensor([[9.0, 1, 0], [0, 0, 2.0], [5.0, 0, 0], [0, 1.0, 0.5]])
    assert nearest_class(shown, classes).tolist() == [0, 2, 0, 1]
    # of the three pictures that are not of class 0, one is taken for it
    assert attack_success(shown, classes, torch.tensor([0, 1, 2, 1]), 0) == pytest.approx(1 / 3)
    assert np.isnan(attack_success(shown[:1], classes, torch.tensor([0]), 0))


def test_the_shift_is_of_direction_alone():
    plain = torch.tensor([[1.0, 0], [0, 2.0]])
    assert trigger_shift(plain, 3 * plain) == pytest.approx(0, abs=1e-6)
    assert trigger_shift(plain, torch.tensor([[0, 1.0], [0, -1.0]])) == pytest.approx(1.5)
