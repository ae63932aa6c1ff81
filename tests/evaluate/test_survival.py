"""Concordance against pairs, Cox regression against its definition and where the truth is known."""

import numpy as np
import pytest
import torch

from amodal.evaluate._survival import concordance, cox, partial_likelihood, survival


def made(n, seed, weights):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(weights)))
    time, censored = rng.exponential(np.exp(-x @ weights)), rng.exponential(2.0, n)
    return torch.from_numpy(x), np.minimum(time, censored), time <= censored


def test_concordance_is_counted_over_pairs_whose_order_is_known():
    rng = np.random.default_rng(0)
    risk, time, event = rng.integers(0, 4, 30), rng.integers(0, 9, 30), rng.random(30) < 0.6
    right = pairs = 0
    for i in range(30):
        for j in range(30):
            # scikit-survival: "if one had the event and the other was censored at the same time, they can be compared"
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                right += 1 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0
    assert concordance(risk, time, event) == pytest.approx(right / pairs)
    assert concordance(0.5 * event - time, time, event) == 1 and concordance(np.zeros(30), time, event) == 0.5
    assert np.isnan(concordance(risk, time, np.zeros(30, bool)))


def test_who_was_last_seen_well_when_another_had_the_event_outlived_it():
    time, event = np.array([5.0, 5.0, 5.0]), np.array([True, False, True])
    assert concordance(np.array([2.0, 1.0, 0.0]), time, event) == 0.5  # two pairs; the two events are none
    assert concordance(np.array([2.0, 1.0, 3.0]), time, event) == 1


def test_partial_likelihood_is_its_definition_with_ties():
    torch.manual_seed(0)
    risk, time, event = (
        torch.randn(9).double(),
        torch.tensor([3.0, 1, 1, 4, 2, 2, 5, 3, 1]),
        torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1]),
    )
    total = 0.0
    for i in range(9):
        if event[i]:
            total += risk[i] - torch.log(sum(risk[j].exp() for j in range(9) if time[j] >= time[i]))
    torch.testing.assert_close(partial_likelihood(risk, time, event), total)


@pytest.mark.parametrize("penalty", [0.1, 10.0])
def test_the_weights_are_where_the_gradient_vanishes(penalty):
    x, time, event = made(60, 1, np.array([1.0, -0.5, 0.0]))
    time, event = torch.from_numpy(time).round(decimals=1), torch.from_numpy(event)
    w = cox(x, time, event, penalty).requires_grad_()
    (partial_likelihood(x @ w, time, event) - penalty / 2 * w.square().sum()).backward()
    assert w.grad.abs().max() < 1e-4 and w.abs().max() > 0.1


def test_what_decides_is_found_and_noise_is_shrunk():
    truth = np.array([1.5, -1.0] + [0.0] * 30)
    train, test = made(200, 2, truth), made(400, 3, truth)
    best = concordance(test[0].numpy() @ truth, test[1], test[2])
    assert best - 0.05 < survival(train, test) <= best + 0.02
    noise = (torch.randn(200, 32, generator=torch.Generator().manual_seed(0)), *train[1:])
    assert abs(survival(noise, test) - 0.5) < 0.1
