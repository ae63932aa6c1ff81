"""Bins of coordinates against the definitions, point by point."""

import math

import torch

from amodal.objectives.coordinate_bins import (
    bin_centers,
    bin_cross_entropy,
    expected_distance,
    to_bins,
)


def test_bins_and_their_middles():
    x = torch.tensor([0.0, 0.24, 0.25, 0.99, 1.0, -0.3, 1.7])
    assert to_bins(x, 4).tolist() == [0, 0, 1, 3, 3, 0, 3]
    torch.testing.assert_close(
        bin_centers(to_bins(x, 4), 4), torch.tensor([1, 1, 3, 7, 7, 1, 7]) / 8
    )


def test_each_point_has_the_mean_of_three_axes():
    torch.manual_seed(0)
    logits, x = (
        torch.randn(2, 3, 5, 4, dtype=torch.float64),
        torch.rand(2, 4, 3, dtype=torch.float64),
    )
    losses, far = bin_cross_entropy(logits, x), expected_distance(logits, x)
    assert losses.shape == far.shape == (2, 4)
    for n in range(2):
        for p in range(4):
            loss, distance = 0.0, 0.0
            for axis in range(3):
                scores = logits[n, axis, :, p].tolist()
                share = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
                loss -= math.log(share[min(int(x[n, p, axis] * 5), 4)]) / 3
                distance += abs(
                    sum(q * (b + 0.5) / 5 for b, q in enumerate(share)) - float(x[n, p, axis])
                )
            assert abs(losses[n, p] - loss) < 1e-12 and abs(far[n, p] - distance) < 1e-12
