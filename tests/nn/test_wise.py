"""Weights between two networks."""

import pytest
import torch
from torch import nn

from amodal.core import AmodalError
from amodal.nn.adapters.wise import interpolate


def made(seed, width=3):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    net(torch.randn(5, 2))
    return net


def test_each_weight_lies_on_the_line():
    start, end = made(0), made(1)
    before = {n: w.clone() for n, w in end.state_dict().items()}
    found = interpolate(start, end, 0.25)
    for n, w in found.state_dict().items():
        a, b = start.state_dict()[n], end.state_dict()[n]
        torch.testing.assert_close(w, 0.75 * a + 0.25 * b if w.is_floating_point() else b)
    assert all(torch.equal(w, before[n]) for n, w in end.state_dict().items())
    for alpha, same in ((0.0, start), (1.0, end)):
        for w, own in zip(
            interpolate(start, end, alpha).state_dict().values(), same.state_dict().values()
        ):
            torch.testing.assert_close(w, own)


def test_what_cannot_be_averaged():
    with pytest.raises(AmodalError, match="from 0 to 1"):
        interpolate(made(0), made(1), 1.5)
    with pytest.raises(AmodalError, match="built alike.*0.weight"):
        interpolate(made(0), made(1, width=4), 0.5)
