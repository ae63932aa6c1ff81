"""Cox's loss against its definition, with ties."""

import math

import pytest
import torch

from amodal.objectives.cox import cox
from amodal.stats.survival import partial_likelihood


def reference(risk, time, event):
    total, events = 0.0, 0
    for i in range(len(risk)):
        if event[i]:
            still = [math.exp(risk[j]) for j in range(len(risk)) if time[j] >= time[i]]
            total -= risk[i] - math.log(sum(still))
            events += 1
    return total / events


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_the_mean_over_events_of_the_definition(seed):
    g = torch.Generator().manual_seed(seed)
    risk = torch.randn(40, generator=g, dtype=torch.float64)
    time = torch.randint(0, 12, (40,), generator=g).double()  # many ties
    event = torch.rand(40, generator=g) < 0.6
    assert cox(risk, time, event).item() == pytest.approx(
        reference(risk.tolist(), time.tolist(), event.tolist()), rel=1e-12
    )
    other = -partial_likelihood(risk, time, event.double()) / event.sum()
    assert torch.allclose(cox(risk, time, event), other)


def test_it_does_not_matter_in_which_order_records_stand():
    g = torch.Generator().manual_seed(7)
    risk, time, event = (
        torch.randn(30, generator=g),
        torch.randint(0, 5, (30,), generator=g),
        torch.rand(30, generator=g) < 0.5,
    )
    order = torch.randperm(30, generator=g)
    assert torch.allclose(cox(risk, time, event), cox(risk[order], time[order], event[order]))


def test_without_events_it_is_zero_and_part_of_the_graph():
    risk = torch.zeros(3, requires_grad=True)
    loss = cox(risk, torch.arange(3), torch.zeros(3))
    loss.backward()
    assert loss == 0 and risk.grad is not None


def test_a_high_risk_for_those_who_go_first_is_better():
    time, event = torch.arange(5).float(), torch.ones(5)
    assert cox(-time, time, event) < cox(time, time, event)


def test_weights_count_in_the_average_and_in_the_risk_sets():
    g = torch.Generator().manual_seed(3)
    risk, time = (
        torch.randn(25, generator=g, dtype=torch.float64),
        torch.randint(0, 8, (25,), generator=g).double(),
    )
    event, weight = (
        torch.rand(25, generator=g) < 0.5,
        torch.rand(25, generator=g, dtype=torch.float64) + 0.1,
    )
    above = below = 0.0
    for i in range(25):
        if event[i]:
            still = sum(
                float(weight[j]) * math.exp(risk[j]) for j in range(25) if time[j] >= time[i]
            )
            above += float(weight[i]) * (math.log(still) - float(risk[i]))
            below += float(weight[i])
    assert cox(risk, time, event, weight).item() == pytest.approx(above / below, rel=1e-12)
    assert torch.allclose(
        cox(risk, time, event, torch.full_like(weight, 3.0)) - cox(risk, time, event),
        torch.tensor(3.0).double().log(),
    )


def test_a_weight_of_two_is_a_record_seen_twice():
    risk, time, event = (
        torch.tensor([0.3, -1.0, 0.5]),
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([True, True, False]),
    )
    twice = torch.tensor([0, 1, 1, 2])
    weighted = cox(risk, time, event, torch.tensor([1.0, 2.0, 1.0]))
    assert torch.allclose(weighted, cox(risk[twice], time[twice], event[twice]))


def test_the_weights_that_maximise_it_are_those_of_a_peer():
    linear_model = pytest.importorskip("sksurv.linear_model")
    g = torch.Generator().manual_seed(5)
    x = torch.randn(60, 3, generator=g, dtype=torch.float64)
    time = (
        torch.rand(60, generator=g, dtype=torch.float64) * torch.exp(-x[:, 0]) * 10
    ).ceil()  # with ties
    event = torch.rand(60, generator=g) < 0.7
    y = [(bool(e), float(t)) for e, t in zip(event, time)]
    structured = __import__("numpy").array(y, dtype=[("event", bool), ("time", float)])
    peer = linear_model.CoxPHSurvivalAnalysis(ties="breslow", tol=1e-12).fit(x.numpy(), structured)
    w = torch.from_numpy(peer.coef_.copy()).requires_grad_()
    cox(x @ w, time, event).backward()
    assert w.grad.abs().max() < 1e-6
