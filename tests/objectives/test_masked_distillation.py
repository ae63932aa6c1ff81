"""The loss of hidden tokens of iBOT."""

import pytest
import torch

from amodal.objectives.masked_distillation import masked_distillation


def drawn(tokens=5, prototypes=4):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(tokens, prototypes, generator=generator, dtype=torch.float64)
    target = torch.randn(tokens, prototypes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), target.requires_grad_()


def test_each_row_counts_once_however_many_tokens_it_hides():
    student, logits = drawn()
    target, lengths = logits.softmax(1), torch.tensor([3, 2])
    loss = masked_distillation(student, target, lengths, temperature=0.2, rows=4)
    each = -(target * (student / 0.2).log_softmax(1)).sum(1)
    expected = (each[:3].mean() + each[3:].mean()) / 4
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.grad.any() and logits.grad is None


def test_it_is_least_where_the_student_is_the_teacher():
    student, _ = drawn()
    ones = torch.ones(5, dtype=torch.int64)
    target, options = (student / 0.1).softmax(1), {"temperature": 0.1, "rows": 5}
    same = masked_distillation(student, target, ones, **options)
    other = masked_distillation(student.flip(0), target, ones, **options)
    assert same < other


def test_nothing_hidden_is_no_loss_and_stays_in_the_graph():
    student = torch.zeros(0, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    loss = masked_distillation(student, torch.zeros(0, 4), none, temperature=0.1, rows=3)
    loss.backward()
    assert loss == 0 and student.grad.shape == (0, 4)


def test_shapes_that_do_not_fit():
    student, logits = drawn()
    for target, lengths in ((logits[:3], torch.ones(5)), (logits, torch.ones(6))):
        with pytest.raises(ValueError, match="do not fit"):
            masked_distillation(student, target, lengths.long(), temperature=0.1, rows=6)
