"""dino_loss, update_center, koleo, sinkhorn against slow references and lightly."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.objectives.dino import dino_loss, update_center, view_cross_entropy
from amodal.objectives.koleo import koleo
from amodal.objectives.sinkhorn import sinkhorn


def views(count, seed=0, rows=4, prototypes=7):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(rows, prototypes, dtype=torch.float64, generator=generator).requires_grad_()
        for _ in range(count)
    ]


def naive_dino(student, teacher, center, tau_s, tau_t):
    total, terms = 0.0, 0
    for s, x in enumerate(student):
        for t, y in enumerate(teacher):
            if s != t:
                target = ((y - center) / tau_t).softmax(-1).detach()
                total = total - (target * (x / tau_s).log_softmax(-1)).sum(-1).mean()
                terms += 1
    return total / terms


@pytest.mark.parametrize("students,teachers", [(2, 2), (6, 2), (3, 3), (5, 3), (2, 1), (1, 2)])
def test_dino_is_the_double_sum(same, students, teachers):
    student, teacher = views(students), views(teachers, seed=1)
    center = torch.linspace(-1, 1, 7, dtype=torch.float64)
    same(
        lambda *s: dino_loss(
            s, teacher, student_temperature=0.2, teacher_temperature=0.05, center_K=center
        ),
        lambda *s: naive_dino(s, teacher, center, 0.2, 0.05),
        student,
    )
    stacked = dino_loss(
        torch.stack(student),
        torch.stack(teacher),
        student_temperature=0.2,
        teacher_temperature=0.05,
        center_K=center,
    )
    torch.testing.assert_close(stacked, naive_dino(student, teacher, center, 0.2, 0.05))


def test_dino_agrees_with_lightly(same):
    lightly = pytest.importorskip("lightly.loss")
    student, teacher = views(5), [t.detach() for t in views(2, seed=1)]

    def theirs(*s):
        loss = lightly.DINOLoss(output_dim=7, teacher_temp=0.06, student_temp=0.1).double()
        return loss(teacher, list(s))

    center = torch.zeros(7, dtype=torch.float64)
    # lightly keeps its temperature in a float32 tensor
    same(
        lambda *s: dino_loss(s, teacher, teacher_temperature=0.06, center_K=center),
        theirs,
        student,
        rtol=1e-5,
    )

    loss = lightly.DINOLoss(output_dim=7).double()
    loss(teacher, student)
    torch.testing.assert_close(update_center(center, teacher, momentum=0.9), loss.center.flatten())


def test_dino_details():
    student, teacher, center = views(2), views(2, seed=1), torch.zeros(7, dtype=torch.float64)
    loss = dino_loss(student, teacher, teacher_temperature=0.05, center_K=center)
    assert torch.autograd.grad(loss, teacher[0], allow_unused=True)[0] is None
    with torch.no_grad():
        assert dino_loss(student, teacher, teacher_temperature=0.05, center_K=center) == loss
    with pytest.raises(ValueError, match="1 student and 1 teacher"):
        dino_loss(student[:1], teacher[:1], teacher_temperature=0.05, center_K=center)
    with pytest.raises(ValueError, match=r"\(4, 7\)"):
        dino_loss([student[0], student[1][:3]], teacher, teacher_temperature=0.05, center_K=center)
    center = torch.full((7,), 3.0)
    assert torch.equal(update_center(center, torch.zeros(2, 0, 7)), center)
    uniform = torch.full((2, 4, 7), 1 / 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *s: view_cross_entropy(s, uniform, temperature=0.3), student
    )


def test_koleo_is_the_formula_and_lightly(pair, same):
    lightly = pytest.importorskip("lightly.loss")

    def naive(z):
        z = F.normalize(z, dim=1)
        nearest = [
            min(torch.linalg.norm(z[i] - z[j]) for j in range(len(z)) if j != i)
            for i in range(len(z))
        ]
        return -torch.stack(nearest).log().mean()

    z = pair(13, 4)[:1]
    for tile in (1, 5, 1024):
        same(lambda z, tile=tile: koleo(z, tile=tile), naive, z, rtol=1e-5, atol=1e-6)
    same(koleo, lightly.KoLeoLoss(), z)
    twice = torch.ones(3, 4, requires_grad=True)
    koleo(twice).backward()
    assert twice.grad.isfinite().all()
    with pytest.raises(ValueError, match="matrix"):
        koleo(torch.ones(3))


def test_sinkhorn_is_swav():
    scores = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = (scores / 0.3).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / 4
        q = q / q.sum(0, keepdim=True) / 6
    torch.testing.assert_close(sinkhorn(scores, epsilon=0.3), (q * 6).T)


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 12), k=st.integers(1, 8), epsilon=st.floats(1e-3, 10), seed=st.integers(0, 99)
)
def test_sinkhorn_rows_are_distributions(n, k, epsilon, seed):
    scores = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    q = sinkhorn(scores, epsilon=epsilon)
    assert q.isfinite().all() and (q >= 0).all()
    torch.testing.assert_close(q.sum(1), torch.ones(n))
    balanced = sinkhorn(scores, epsilon=max(epsilon, 0.5), iterations=200)
    torch.testing.assert_close(balanced.sum(0), torch.full((k,), n / k), rtol=0.02, atol=0.02)


def test_sinkhorn_errors_and_no_rows():
    assert sinkhorn(torch.zeros(0, 5)).shape == (0, 5)
    for wrong in (dict(epsilon=0), dict(iterations=0)):
        with pytest.raises(ValueError, match="above 0"):
            sinkhorn(torch.zeros(2, 2), **wrong)
    with pytest.raises(ValueError, match="scores"):
        sinkhorn(torch.zeros(2))


@pytest.mark.parametrize(
    "rows, group, sizes",
    [
        (6, 16, [6]),
        (6, 3, [3, 3]),
        (7, 3, [3, 2, 2]),
        (5, 2, [3, 2]),
        (17, 16, [9, 8]),
        (3, 2, [3]),
    ],
)
def test_the_neighbour_of_koleo_is_in_the_group_of_the_row(rows, group, sizes):
    z = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = sum(len(part) * koleo(part) for part in z.split(sizes)) / rows
    torch.testing.assert_close(koleo(z, group=group), whole)
    if len(sizes) > 1:
        assert koleo(z, group=group) < koleo(z)  # others are further away than the nearest of all


@pytest.mark.parametrize("group", [1, -2])
def test_koleo_needs_a_neighbour(group):
    with pytest.raises(ValueError, match="at least 2 rows"):
        koleo(torch.ones(4, 3), group=group)
