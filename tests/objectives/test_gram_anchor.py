"""Gram anchoring of DINOv3."""

import pytest
import torch

from amodal.objectives.gram_anchor import gram_anchor

LENGTHS = [3, 5, 3, 0, 1, 5]


def drawn(lengths=LENGTHS, width=4):
    generator = torch.Generator().manual_seed(0)
    student, target = (
        torch.randn(sum(lengths), width, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return student.requires_grad_(), target.requires_grad_(), torch.tensor(lengths)


def written_out(student, target, lengths, clamp_negative):
    losses = []
    for x, y in zip(student.split(lengths.tolist()), target.detach().split(lengths.tolist())):
        x, y = (v / v.norm(dim=1, keepdim=True) for v in (x, y))
        own, other = x @ x.T, y @ y.T
        if clamp_negative:
            own, other = own.relu(), other.relu()
        losses.append((own - other).square().mean() if len(x) else 0 * student.sum())
    return torch.stack(losses)


@pytest.mark.parametrize("cells", [1 << 22, 40, 7, 1])
@pytest.mark.parametrize("clamp_negative", [False, True])
def test_it_is_the_formula_in_tiles_of_any_size(cells, clamp_negative):
    student, target, lengths = drawn()
    loss = gram_anchor(student, target, lengths, clamp_negative=clamp_negative, cells=cells)
    weight = torch.arange(1.0, 7, dtype=torch.float64)
    (loss * weight).sum().backward()
    gradient, student.grad = student.grad, None
    expected = written_out(student, target, lengths, clamp_negative)
    (expected * weight).sum().backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, student.grad)
    assert target.grad is None


def test_clamping_ignores_how_far_patches_are_opposed():
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.1]])
    target = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    two = torch.tensor([2])
    assert gram_anchor(student, target, two)[0] > 0.01
    assert gram_anchor(student, target, two, clamp_negative=True)[0] < 1e-6


def test_only_angles_between_the_patches_of_one_picture_count():
    student, target, lengths = drawn()
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    turned = 3 * target @ rotation
    torch.testing.assert_close(
        gram_anchor(target, turned, lengths), torch.zeros(6, dtype=torch.float64)
    )
    pieces = list(target.split(LENGTHS))
    pieces[1] = pieces[1] @ rotation  # one picture by itself
    apart = gram_anchor(torch.cat(pieces), target, lengths)
    torch.testing.assert_close(apart, torch.zeros(6, dtype=torch.float64))


def test_no_matrix_is_of_the_whole_batch(monkeypatch):
    student, target, lengths = drawn([64] * 32, 8)
    largest, multiply = [], torch.Tensor.__matmul__

    def measured(a, b):
        out = multiply(a, b)
        largest.append(out.numel())
        return out

    monkeypatch.setattr(torch.Tensor, "__matmul__", measured)
    gram_anchor(student, target, lengths, cells=2 * 64 * 64).sum().backward()
    assert max(largest) <= 2 * 64 * 64


def test_shapes_that_do_not_fit():
    student, target, lengths = drawn()
    for wrong in ((student, target[:3], lengths), (student, target, lengths[:3])):
        with pytest.raises(ValueError, match="do not fit"):
            gram_anchor(*wrong)
