"""Local NCE against loops over rows and parts."""

import math

import pytest
import torch

from amodal.objectives.local_nce import local_nce, mixture_weights

LENGTHS = torch.tensor([2, 1, 3, 2])


def inputs(vectors=1):
    generator = torch.Generator().manual_seed(0)
    shape = (4, 3) if vectors == 1 else (4, vectors, 3)
    source = 2 * torch.randn(shape, dtype=torch.float64, generator=generator)
    return [
        source.requires_grad_(),
        torch.randn(8, 3, dtype=torch.float64, generator=generator).requires_grad_(),
    ]


def log_probabilities(source, parts, bound):
    """[row][part] of one vector a row."""
    lists, clip = (
        parts.split(LENGTHS.tolist()),
        (lambda u: bound * (u / bound).tanh()) if bound else (lambda u: u),
    )
    score = lambda r, t: clip((r @ t) / 3**0.5)  # noqa: E731
    found = []
    for i in range(4):
        away = sum(score(source[i], t).exp() for j in range(4) if j != i for t in lists[j])
        found.append(
            [
                (score(source[i], t).exp() / (score(source[i], t).exp() + away)).log()
                for t in lists[i]
            ]
        )
    return found


@pytest.mark.parametrize("bound", [0.0, 1.5, 20.0])
@pytest.mark.parametrize("tile", [2, 256])
def test_it_is_the_mean_over_rows_of_their_parts(same, bound, tile):
    def reference(source, parts):
        rows = [sum(each) / len(each) for each in log_probabilities(source, parts, bound)]
        return -sum(rows) / 4

    same(lambda s, p: local_nce(s, p, LENGTHS, bound=bound, tile=tile)[0], reference, inputs())


def test_the_penalty_is_the_mean_square_of_raw_scores(same):
    def reference(source, parts):
        return sum((r @ t).square() / 3 for r in source.flatten(0, -2) for t in parts) / (
            source.shape[:-1].numel() * 8
        )

    same(lambda s, p: local_nce(s, p, LENGTHS, bound=1.0)[1], reference, inputs())
    same(lambda s, p: local_nce(s, p, LENGTHS, bound=1.0)[1], reference, inputs(2))


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_a_mixture_is_the_best_weights_with_their_entropy(same, sharpness):
    def reference(source, parts):
        each = [log_probabilities(source[:, k], parts, 20.0) for k in range(3)]
        rows = []
        for i in range(4):
            total = 0.0
            for m in range(int(LENGTHS[i])):
                logs = torch.stack([each[k][i][m] for k in range(3)])
                q = (sharpness * logs).softmax(0).detach()
                total = (
                    total
                    + (q * logs).sum()
                    - (q * q.log()).sum() / sharpness
                    - math.log(3) / sharpness
                )
            rows.append(total / LENGTHS[i])
        return -sum(rows) / 4

    same(lambda s, p: local_nce(s, p, LENGTHS, sharpness=sharpness)[0], reference, inputs(3))
    weights = mixture_weights(*inputs(3), LENGTHS, sharpness=sharpness)
    first = torch.stack(
        [log_probabilities(inputs(3)[0][:, k], inputs(3)[1], 20.0)[0][0] for k in range(3)]
    )
    torch.testing.assert_close(weights[0], (sharpness * first).softmax(0).detach())
    torch.testing.assert_close(weights.sum(1), torch.ones(8, dtype=torch.float64))


def test_equal_vectors_are_no_mixture():
    source, parts = inputs()
    one, three = (
        local_nce(s, parts, LENGTHS)[0] for s in (source, source[:, None].repeat(1, 3, 1))
    )
    torch.testing.assert_close(one, three)


def test_edges():
    for n in (0, 1):
        source, parts = (
            torch.ones(n, 3, requires_grad=True),
            torch.ones(2 * n, 3, requires_grad=True),
        )
        sum(local_nce(source, parts, torch.full((n,), 2))).backward()
        assert source.grad.abs().sum() == 0
    with pytest.raises(ValueError, match="lengths"):
        local_nce(torch.ones(3, 2), torch.ones(4, 2), torch.tensor([2, 2]))
