"""Coding rates against determinants written out group by group, and what they are least and largest
for."""

import numpy as np
import pytest
import torch

from amodal.objectives.rate_reduction import coding_length, coding_rate, compressed_rate
from amodal.objectives.sinkhorn import doubly_stochastic


def slow_rate(z, weights, total, distortion):
    """sum(weights) / (2 total) logdet of the weighted second moments, by eigenvalues."""
    mass, second = sum(weights), 0
    for w, row in zip(weights, z):
        second = second + w * torch.outer(row, row)
    grown = torch.eye(z.shape[1], dtype=z.dtype) + z.shape[1] / (mass * distortion) * second
    return mass / (2 * total) * torch.linalg.eigvalsh(grown).log().sum()


@pytest.mark.parametrize("rows", [3, 9])
def test_the_rate_of_all_rows_is_that_of_one_group_of_all(pair, same, rows):
    z, _ = pair(rows, 5)
    ones = torch.ones(rows, dtype=torch.float64)
    same(lambda x: coding_rate(x, distortion=0.3), lambda x: slow_rate(x, ones, rows, 0.3), [z])
    torch.testing.assert_close(
        compressed_rate(z, ones[:, None], distortion=0.3), coding_rate(z, distortion=0.3)
    )


@pytest.mark.parametrize("tile", [1, 2, 32])
def test_the_compressed_rate_is_the_sum_over_groups(pair, same, tile):
    z, scores = pair(6, 4)
    member = scores.softmax(1)

    def reference(x, s):
        return sum(slow_rate(x, list(s.softmax(1)[:, k]), 6, 0.2) for k in range(4))

    same(
        lambda x, s: compressed_rate(x, s.softmax(1), distortion=0.2, tile=tile),
        reference,
        [z, scores],
    )
    assert compressed_rate(z, torch.cat([member, 0 * member], 1)).detach() == pytest.approx(
        compressed_rate(z, member).item()
    )


def test_true_groups_on_orthogonal_lines_reduce_the_rate_most():
    truth = torch.arange(3).repeat(8)
    z, hard = torch.eye(6)[truth], torch.eye(3)[truth]
    gain = coding_rate(z) - compressed_rate(z, hard)
    other = coding_rate(z) - compressed_rate(
        z, hard[torch.randperm(24, generator=torch.Generator().manual_seed(0))]
    )
    assert gain > other and gain > 1


def test_the_coding_length_is_the_sum_of_its_definition_and_is_least_for_the_truth():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 30)
    z = torch.from_numpy(np.eye(12)[truth] + 0.05 * rng.normal(size=(120, 12)))
    bits = 0
    for k in range(4):
        own = z[truth == k].numpy()
        grown = np.eye(12) + 12 / (len(own) * 0.1) * own.T @ own
        bits += (len(own) + 12) / 2 * np.log2(np.linalg.eigvalsh(grown)).sum() - len(own) * np.log2(
            len(own) / 120
        )
    ours = {k: float(coding_length(z, torch.from_numpy(truth * k // 4))) for k in (1, 2, 4)}
    assert ours[4] == pytest.approx(bits)
    halves = truth * 2 + np.tile([0, 1], 60)
    assert ours[4] < min(ours[1], ours[2], float(coding_length(z, torch.from_numpy(halves))))


@pytest.mark.parametrize("iterations", [1, 4, 5])
def test_memberships_are_scaled_row_by_row_and_column_by_column(iterations):
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = (x @ x.T).abs()
    p = (scores / 0.5).exp()
    for i in range(iterations):
        p = p / p.sum(1 - i % 2, keepdim=True)
    torch.testing.assert_close(doubly_stochastic(scores, epsilon=0.5, iterations=iterations), p)
    even = doubly_stochastic(scores, epsilon=0.5, iterations=3001)
    torch.testing.assert_close(even.sum(0), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(even, even.T)


def test_the_gradient_of_memberships_is_that_of_the_last_softmax():
    """The columns' scale is a constant, so after rows every row of the gradient sums to nothing."""
    scores = torch.rand(5, 5, dtype=torch.float64).requires_grad_()
    weights = torch.rand(5, 5, dtype=torch.float64)
    (doubly_stochastic(scores, epsilon=0.3) * weights).sum().backward()
    torch.testing.assert_close(
        scores.grad.sum(1), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0
    )
    assert scores.grad.abs().max() > 0


def test_nothing_and_wrong_shapes():
    empty = torch.zeros(0, 3, requires_grad=True)
    assert coding_rate(empty) == 0 and compressed_rate(empty, torch.zeros(0, 0)) == 0
    assert doubly_stochastic(torch.zeros(0, 0)).shape == (0, 0)
    with pytest.raises(ValueError, match="of one N"):
        compressed_rate(torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="group"):
        coding_length(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(N, N\)"):
        doubly_stochastic(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="distortion"):
        coding_rate(torch.zeros(3, 2), distortion=0.0)
