"""info_nce, nt_xent, sigmoid_loss against the N x N formulas, explicit loops, lightly and
open_clip."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from amodal.objectives.info_nce import info_nce, nt_xent
from amodal.objectives.log_sum_exp import pair_log_sum_exp, row_log_sum_exp, self_log_sum_exp
from amodal.objectives.sigmoid import sigmoid_loss


def naive_info_nce(a, b, temperature, symmetric=True):
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    labels = torch.arange(len(a))
    loss = F.cross_entropy(logits, labels)
    return (loss + F.cross_entropy(logits.T, labels)) / 2 if symmetric else loss


def naive_nt_xent(a, b, temperature):
    z = F.normalize(torch.cat([a, b]), dim=1)
    n, total = len(a), 0.0
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        logits = torch.stack([z[i] @ z[k] / temperature for k in others])
        total = total - logits[others.index((i + n) % (2 * n))] + logits.logsumexp(0)
    return total / (2 * n)


def naive_sigmoid(a, b, scale, bias):
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    total = 0.0
    for i in range(len(a)):
        for j in range(len(b)):
            sign = 1 if i == j else -1
            total = total - F.logsigmoid(sign * (scale * (a[i] @ b[j]) + bias))
    return total / len(a)


# 0.2 takes the path with one shift for all logits, 0.001 the one whose shift follows the data.
@pytest.mark.parametrize("temperature", [0.2, 0.001])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tile", [1, 4, 7, 1024])
def test_info_nce_is_the_formula(pair, same, temperature, symmetric, tile):
    temperature = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    same(
        lambda a, b, t: info_nce(a, b, temperature=t, symmetric=symmetric, tile=tile),
        lambda a, b, t: naive_info_nce(a, b, t, symmetric),
        [*pair(11, 5), temperature],
    )


@pytest.mark.parametrize("temperature", [0.5, 0.001])
@pytest.mark.parametrize("tile", [1, 4, 7, 1024])
def test_nt_xent_is_equation_1(pair, same, temperature, tile):
    temperature = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    same(
        lambda a, b, t: nt_xent(a, b, temperature=t, tile=tile),
        naive_nt_xent,
        [*pair(7, 5), temperature],
    )


@pytest.mark.parametrize("tile", [1, 4, 1024])
@pytest.mark.parametrize("scale", [10.0, 200.0])
def test_sigmoid_is_equation_1(pair, same, tile, scale):
    scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (scale, -10.0))
    same(
        lambda a, b, s, c: sigmoid_loss(a, b, scale=s, bias=c, tile=tile),
        naive_sigmoid,
        [*pair(9, 5), scale, bias],
    )


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: info_nce(a, b, temperature=0.1, tile=3),
        lambda a, b: nt_xent(a, b, temperature=0.1, tile=3),
        lambda a, b: sigmoid_loss(a, b, scale=10.0, bias=-10.0, tile=3),
    ],
)
def test_gradcheck(pair, loss):
    assert torch.autograd.gradcheck(loss, pair(5, 3))


@settings(deadline=None, max_examples=40)
@given(
    m=st.integers(1, 9),
    n=st.integers(1, 9),
    tile=st.integers(1, 10),
    power=st.floats(-1, 3),
    seed=st.integers(0, 999),
)
def test_log_sum_exps_of_any_shape_and_size(m, n, tile, power, seed):
    generator = torch.Generator().manual_seed(seed)
    a = (torch.randn(m, 3, dtype=torch.float64, generator=generator) * 10**power).requires_grad_()
    b = torch.randn(n, 3, dtype=torch.float64, generator=generator).requires_grad_()
    logits = a @ b.T
    rows, columns = pair_log_sum_exp(a, b, tile=tile)
    torch.testing.assert_close(rows, logits.logsumexp(1))
    torch.testing.assert_close(columns, logits.logsumexp(0))
    torch.testing.assert_close(row_log_sum_exp(a, b, tile=tile), logits.logsumexp(1))
    if m > 1:
        square = (a @ a.T).masked_fill(torch.eye(m, dtype=torch.bool), -math.inf)
        torch.testing.assert_close(self_log_sum_exp(a, tile=tile), square.logsumexp(1))
        weight = torch.randn(m, dtype=torch.float64, generator=generator)
        grads = [
            torch.autograd.grad((v * weight).sum(), a, retain_graph=True)[0]
            for v in (self_log_sum_exp(a, tile=tile), square.logsumexp(1))
        ]
        torch.testing.assert_close(*grads)


def test_agrees_with_lightly_and_open_clip(pair, same):
    open_clip = pytest.importorskip("open_clip.loss")
    lightly = pytest.importorskip("lightly.loss")
    unit = lambda x: F.normalize(x, dim=1)  # noqa: E731
    a_b = pair(12, 6)
    theirs = lightly.NTXentLoss(temperature=0.3)
    same(lambda a, b: nt_xent(a, b, temperature=0.3), theirs, a_b)
    clip = open_clip.ClipLoss()
    same(
        lambda a, b: info_nce(a, b, temperature=0.05),
        lambda a, b: clip(unit(a), unit(b), torch.tensor(20.0)),
        a_b,
    )
    siglip = open_clip.SigLipLoss()
    same(
        lambda a, b: sigmoid_loss(a, b, scale=10.0, bias=-10.0),
        lambda a, b: siglip(unit(a), unit(b), torch.tensor(10.0), torch.tensor(-10.0)),
        a_b,
    )


@pytest.mark.parametrize("temperature", [0.07, 0.01, 1e-4])
def test_float32_is_close_to_float64_and_finite(pair, temperature):
    a, b = (x.detach() for x in pair(64, 8))
    for loss in (info_nce, nt_xent):
        exact = loss(a, b, temperature=temperature)
        x, y = a.float().requires_grad_(), b.float().requires_grad_()
        value = loss(x, y, temperature=temperature, tile=16)
        value.backward()
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)
        assert x.grad.isfinite().all() and y.grad.isfinite().all()


def test_half_inputs_and_autocast_compute_in_float32(pair):
    a, b = (x.detach().bfloat16() for x in pair(16, 8))
    exact = info_nce(a.double(), b.double(), temperature=0.01)
    a.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = info_nce(a, b, temperature=0.01)
        value.backward()
    assert value.dtype == torch.float32 and a.grad.dtype == torch.bfloat16
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: info_nce(a, b, temperature=0.1),
        lambda a, b: info_nce(a, b, temperature=0.01),
        lambda a, b: nt_xent(a[:2048], b[:2048], temperature=0.1),
        lambda a, b: sigmoid_loss(a, b, scale=10.0, bias=-10.0),
    ],
)
def test_no_square_matrix_at_4096(loss):
    a, b = torch.randn(4096, 16, requires_grad=True), torch.randn(4096, 16, requires_grad=True)
    with LargestTensor() as largest:
        loss(a, b).backward()
    assert a.grad.abs().sum() > 0
    assert largest.elements <= 1024 * 1024 < 4096 * 4096


def test_sigmoid_without_grad_and_twice_backward(pair):
    a, b = pair(5, 3)
    with torch.no_grad():
        value = sigmoid_loss(a, b, scale=10.0, bias=-10.0)
    repeated = sigmoid_loss(a, b, scale=10.0, bias=-10.0)
    assert not value.requires_grad and value == repeated
    first, second = (torch.autograd.grad(repeated, a, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_errors_say_what_was_passed(pair):
    a, b = pair(5, 3)
    for loss in (
        lambda x, y: info_nce(x, y, temperature=1),
        nt_xent,
        lambda x, y: sigmoid_loss(x, y, scale=1, bias=0),
    ):
        with pytest.raises(ValueError, match=r"\(5, 3\) and \(4, 3\)"):
            loss(a, b[:4])
    with pytest.raises(ValueError, match="temperature must be above 0"):
        info_nce(a, b, temperature=0.0)
    with pytest.raises(ValueError, match="tile"):
        info_nce(a, b, temperature=1.0, tile=0)
    with pytest.raises(ValueError, match="tile"):
        sigmoid_loss(a, b, scale=1, bias=0, tile=0)
