"""Distillation of logits against sums written out, and the limits that the paper gives."""

import math

import pytest
import torch

from amodal.objectives.distill import distill


def logits(seed, n=5, k=4):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_it_is_the_divergence_written_out(temperature):
    student, teacher = logits(0), logits(1)
    total = 0.0
    for a, b in zip(student.tolist(), teacher.tolist()):
        q, p = ([math.exp(x / temperature) for x in row] for row in (a, b))
        q, p = [x / sum(q) for x in q], [x / sum(p) for x in p]
        total += temperature**2 * sum(y * math.log(y / x) for x, y in zip(q, p)) / 5
    assert abs(distill(student, teacher, temperature=temperature).item() - total) < 1e-12


def test_a_certain_teacher_is_a_label():
    student, y = logits(0), torch.tensor([0, 3, 1, 1, 2])
    certain = torch.nn.functional.one_hot(y, 4).double() * 1000
    want = torch.nn.functional.cross_entropy(student, y)
    torch.testing.assert_close(distill(student, certain, temperature=1.0), want)


def test_hot_gradients_match_differences_of_logits():
    """Their eq. 4: at a high temperature and for centred logits the gradient is (student - teacher)
    / K, and 1 / N of the mean."""
    student, teacher = (
        (x - x.mean(1, keepdim=True)).requires_grad_() for x in (logits(0), logits(1))
    )
    distill(student, teacher, temperature=1e4).backward()
    torch.testing.assert_close(
        student.grad, ((student - teacher) / 4 / 5).detach(), rtol=1e-2, atol=1e-4
    )
    assert teacher.grad is None


def test_no_rows_and_bad_arguments():
    assert distill(logits(0, 0).requires_grad_(), logits(1, 0)).requires_grad
    with pytest.raises(ValueError, match="two"):
        distill(logits(0), logits(1, 4))
    with pytest.raises(ValueError, match="temperature"):
        distill(logits(0), logits(1), temperature=0)
