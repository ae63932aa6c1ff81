import math

import pytest
import torch

from amodal.objectives.modality_choice import modality_choice


def scores():
    torch.manual_seed(0)
    score = torch.randn(4, 4, 3, dtype=torch.float64)
    score[:, 1, 0] = -torch.inf  # the second record lacks the first source
    return score


def reference(score, about, temperature):
    each = []
    for i in range(len(score)):
        own = score[i, i].tolist()
        right = own[about[i]] if about[i] >= 0 else max(own)
        if right == -math.inf:
            continue
        total = sum(math.exp(v / temperature) for v in score[i].flatten().tolist() if v > -math.inf)
        each.append(math.log(total) - right / temperature)
    return sum(each) / len(each)


@pytest.mark.parametrize("about", ([0, 0, 2, -1], [2, 1, 0, 1], [-1, -1, -1, -1]))
def test_agrees_with_its_definition(about):
    found = modality_choice(scores(), temperature=0.3, modality_N=torch.tensor(about))
    assert float(found) == pytest.approx(reference(scores(), about, 0.3))


def test_gradients_are_finite_though_a_source_lacks():
    temperature, score = torch.tensor(0.3, requires_grad=True), scores().requires_grad_()
    modality_choice(score, temperature=temperature).backward()
    assert temperature.grad.isfinite() and temperature.grad != 0 and score.grad.isfinite().all()


def test_one_query_alone_is_a_zero_that_keeps_the_graph():
    score = torch.randn(1, 1, 2, requires_grad=True)
    loss = modality_choice(score, temperature=0.1)
    loss.backward()
    assert loss == 0 and score.grad is not None


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="modality_choice needs"):
        modality_choice(torch.randn(2, 3, 1), temperature=0.1)
