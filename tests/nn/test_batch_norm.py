"""Batch normalisation of encoders against torch's: one process, frozen, few rows, no rows, teachers."""

import copy

import pytest
import torch
from torch import nn

from amodal.core import AmodalError
from amodal.methods.shared.shapes import ema_update, frozen_copy, momentum_copy
from amodal.nn.batch_norm import (
    WholeBatchNorm,
    active_norms,
    batch_statistics,
    no_rows,
    with_whole_batch_norm,
)


def pair(width=3, **options):
    """torch's layer, and ours with the same numbers."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(width, **options).double()
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        if norm.affine:
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
    return norm, WholeBatchNorm.like(copy.deepcopy(norm))


def maps(rows=4, width=3, side=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, side, side, generator=generator, dtype=torch.float64)
    return x.requires_grad_()


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}])
@pytest.mark.parametrize("over_ranks", [False, True])
def test_in_training_it_is_torchs_layer(options, over_ranks):
    theirs, ours = pair(**options)
    for seed in range(2):
        x, y = maps(seed=seed), maps(seed=seed)
        want = theirs(x)
        # the sum over one rank is the identity, so the form for ranks must be the same layer
        with batch_statistics((lambda t: None) if over_ranks else None):
            got = ours(y)
        torch.testing.assert_close(got, want)
        weight = torch.arange(want.numel(), dtype=torch.float64).view_as(want).sin()
        (want * weight).sum().backward()
        (got * weight).sum().backward()
        torch.testing.assert_close(y.grad, x.grad)
    for (name, a), b in zip(theirs.named_parameters(), ours.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(theirs.named_buffers(), ours.buffers()):
        torch.testing.assert_close(a, b, msg=name)
    torch.testing.assert_close(theirs.eval()(x), ours.eval()(x))


def test_its_gradient_over_ranks_is_the_numerical_one():
    _, ours = pair(2)
    x = maps(3, 2, 1)

    def normalised(x):
        with batch_statistics(lambda t: None, updates=False):
            return ours(x)

    assert torch.autograd.gradcheck(normalised, (x,))


def test_a_frozen_weight_keeps_its_statistics():
    theirs, ours = pair()
    ours.requires_grad_(False)
    assert not active_norms(ours)
    before = ours.running_mean.clone()
    torch.testing.assert_close(ours(maps()), theirs.eval()(maps()))
    assert torch.equal(ours.running_mean, before)


@pytest.mark.parametrize("over_ranks", [False, True])
@pytest.mark.parametrize("rows", [0, 1])
def test_one_value_a_channel_and_none_use_the_running_statistics(rows, over_ranks):
    theirs, ours = pair()
    x, y = maps(rows, side=1), maps(rows, side=1)
    with batch_statistics((lambda t: None) if over_ranks else None):
        got = ours(y)
    want = theirs.eval()(x)
    torch.testing.assert_close(got, want)
    got.sum().backward()
    want.sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    for name, buffer in theirs.named_buffers():
        assert torch.equal(buffer, getattr(ours, name)), name


def test_one_row_of_a_map_has_statistics():
    theirs, ours = pair()
    torch.testing.assert_close(ours(maps(1)), theirs(maps(1)))


@pytest.mark.parametrize("over_ranks", [False, True])
def test_an_example_without_rows_counts_nowhere(over_ranks):
    theirs, ours = pair()
    before = copy.deepcopy(dict(ours.named_buffers()))
    with batch_statistics((lambda t: None) if over_ranks else None), no_rows():
        out = ours(maps())
    torch.testing.assert_close(out, theirs.eval()(maps()))
    assert all(torch.equal(before[n], b) for n, b in ours.named_buffers())
    out[:0].sum().backward()
    assert ours.weight.grad is not None and not ours.weight.grad.any()


@pytest.mark.parametrize("over_ranks", [False, True])
def test_a_second_pass_leaves_the_running_statistics(over_ranks):
    _, ours = pair()
    before = copy.deepcopy(dict(ours.named_buffers()))
    with batch_statistics((lambda t: None) if over_ranks else None, updates=False):
        first = ours(maps())
    assert all(torch.equal(before[n], b) for n, b in ours.named_buffers())
    torch.testing.assert_close(first, ours(maps()))
    assert not torch.equal(before["running_mean"], ours.running_mean)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())


def test_a_network_keeps_its_names_and_its_activations():
    import timm

    for net, values in ((network(), torch.rand(2, 3, 4, 4)), (None, torch.rand(2, 3, 32, 32))):
        net = timm.create_model("efficientnet_b0") if net is None else net
        theirs, ours = net.train(), with_whole_batch_norm(copy.deepcopy(net))
        assert list(theirs.state_dict()) == list(ours.state_dict())
        assert len(active_norms(ours)) == sum(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in theirs.modules()
        )
        torch.manual_seed(0)
        want = theirs(values)
        torch.manual_seed(0)
        torch.testing.assert_close(ours(values), want, rtol=1e-4, atol=1e-5)


def test_a_norm_of_another_kind_is_refused():
    class Mine(nn.BatchNorm2d):
        pass

    with pytest.raises(AmodalError, match="Mine is a batch normalisation of its own kind"):
        with_whole_batch_norm(nn.Sequential(Mine(3)))
    with pytest.raises(AmodalError, match="keeps no running statistics"):
        with_whole_batch_norm(nn.BatchNorm2d(3, track_running_stats=False))


def test_an_average_of_weights_has_the_average_of_the_statistics():
    student = with_whole_batch_norm(network())
    average = frozen_copy(student)
    student(torch.rand(8, 3, 2, 2))
    before, now = average[1].running_mean.clone(), student[1].running_mean
    ema_update(average, student, 0.75)
    torch.testing.assert_close(average[1].running_mean, 0.75 * before + 0.25 * now)
    assert average[1].num_batches_tracked == 1
    assert not active_norms(average)


def test_a_teacher_has_the_statistics_of_what_it_sees():
    """As in BYOL and DINO, whose teachers are in training mode."""
    student = with_whole_batch_norm(network())
    teacher = momentum_copy(student)
    plain = copy.deepcopy(network())
    x = torch.rand(8, 3, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(teacher(x), plain(x))
    own = plain[1].running_mean
    torch.testing.assert_close(teacher[1].running_mean, own)
    student(10 * x)
    ema_update(teacher, student, 0.5)
    torch.testing.assert_close(teacher[1].running_mean, own)
    ema_update(teacher, student, 0.0)  # a copy is one of everything
    torch.testing.assert_close(teacher[1].running_mean, student[1].running_mean)
