"""Balancing against scipy-free loops, and its predicted variance against many samples."""

import pytest
import torch

from amodal.diagnose.balance import balance, dependence, estimate, variances


def table(seed=0, shape=(4, 5)):
    p = torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    return p / p.sum()


def test_balance_is_row_and_column_scaling_and_ends_at_both_marginals():
    p, rows, columns = table(), table(1).sum(1), table(2).sum(0)
    q = p.clone()
    for i in range(4):
        q[i] *= rows[i] / q[i].sum()
    torch.testing.assert_close(balance(p * 40, rows, columns, steps=1), q)
    for j in range(5):
        q[:, j] *= columns[j] / q[:, j].sum()
    torch.testing.assert_close(balance(p, rows, columns, steps=2), q)
    end = balance(p, rows, columns, steps=100)
    torch.testing.assert_close(end.sum(1), rows)
    torch.testing.assert_close(end.sum(0), columns)


def test_variances_are_those_of_many_samples():
    p, h = (
        table(3, (4, 4)),
        torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4)),
    )
    n, draws = 1000, 2000
    torch.manual_seed(0)
    counts = torch.distributions.Multinomial(n, p.flatten()).sample((draws,)).view(draws, 4, 4)
    truth = (p * h).sum()
    for steps, predicted in enumerate(variances(p, h, steps=3)):
        found = torch.stack(
            [(balance(c, p.sum(1), p.sum(0), steps=steps) * h).sum() for c in counts]
        )
        assert n * (found - truth).square().mean() == pytest.approx(float(predicted), rel=0.12)


def test_variance_of_a_function_of_x_alone_is_gone_after_one_step():
    p = table()
    h = torch.arange(4.0)[:, None].expand(4, 5)
    at = variances(p, h, steps=1)
    assert at[0] > 0.1 and at[1] == pytest.approx(0, abs=1e-12)


def test_dependence_and_estimate():
    assert dependence(torch.ones(3, 4))[:2].tolist() == pytest.approx([1, 0], abs=1e-7)
    assert dependence(torch.diag(torch.tensor([1.0, 2.0, 0.0]))).tolist() == pytest.approx([1, 1])
    p, h = table(), torch.randn(4, 5, dtype=torch.float64)
    mean, error = estimate(p * 1e6, h, p.sum(1), p.sum(0), steps=2)
    assert mean == pytest.approx(float((p * h).sum())) and error == pytest.approx(
        float(variances(p, h, steps=2)[-1] / 1e6) ** 0.5, rel=1e-6
    )


def test_errors():
    p = table()
    with pytest.raises(ValueError, match=r"rows \[1\] have mass"):
        balance(torch.where(torch.arange(4)[:, None] == 1, 0, p), p.sum(1), p.sum(0), steps=1)
    with pytest.raises(ValueError, match="target marginal 3"):
        balance(p, p.sum(1)[:3], p.sum(0), steps=1)
    with pytest.raises(ValueError, match="negative"):
        variances(-p, p, steps=1)
