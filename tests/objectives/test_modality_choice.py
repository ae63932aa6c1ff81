import math

import pytest
import torch

from amodal.objectives.modality_choice import modality_choice


def scores():
    torch.manual_seed(0)
    score = torch.randn(4, 4, 3, dtype=torch.float64)
    score[:, 1, 0] = -torch.inf  # the second record lacks the first modality
    return torch.randn(4, 4, dtype=torch.float64), score


def reference(whole, score, about, temperature, negatives):
    total = 0.0
    for i in range(len(score)):
        own = score[i, i, about[i]].item() if about[i] >= 0 else -math.inf
        known = own > -math.inf
        right = own if known else whole[i, i].item()
        others = [whole[i, j].item() for j in range(len(score)) if j != i]
        if negatives and known:
            others += [
                score[i, j, f].item()
                for j in range(len(score))
                for f in range(score.shape[2])
                if (j, f) != (i, about[i]) and score[i, j, f] > -math.inf
            ]
        total += math.log(sum(math.exp(v / temperature) for v in (right, *others)))
        total -= right / temperature
    return total / len(score)


@pytest.mark.parametrize("negatives", (False, True))
@pytest.mark.parametrize("about", ([0, 0, 2, -1], [2, 1, 0, 1], [-1, -1, -1, -1]))
def test_agrees_with_its_definition(about, negatives):
    found = modality_choice(
        *scores(), modality_N=torch.tensor(about), temperature=0.3, modality_negatives=negatives
    )
    assert float(found) == pytest.approx(reference(*scores(), about, 0.3, negatives))


def test_without_modalities_it_is_info_nce_of_queries():
    whole, score = scores()
    want = torch.nn.functional.cross_entropy(whole / 0.3, torch.arange(4))
    unknown = torch.full((4,), -1)
    for negatives in (False, True):
        found = modality_choice(
            whole, score, modality_N=unknown, temperature=0.3, modality_negatives=negatives
        )
        torch.testing.assert_close(found, want)


def test_gradients_are_finite_though_a_modality_lacks():
    temperature, (whole, score) = torch.tensor(0.3, requires_grad=True), scores()
    score.requires_grad_()
    about = torch.tensor([0, 0, 2, 1])
    modality_choice(
        whole, score, modality_N=about, temperature=temperature, modality_negatives=True
    ).backward()
    assert temperature.grad.isfinite() and temperature.grad != 0 and score.grad.isfinite().all()
    assert score.grad[0, 0, 0] < 0 < score.grad[0, 0, 1]


def test_one_query_alone_is_a_zero_that_keeps_the_graph():
    whole, score = torch.randn(1, 1, requires_grad=True), torch.randn(1, 1, 2, requires_grad=True)
    loss = modality_choice(whole, score, modality_N=torch.tensor([0]), temperature=0.1)
    loss.backward()
    assert loss == 0 and score.grad is not None and whole.grad is not None


def test_what_does_not_fit_is_refused():
    for whole, score in (((2, 3), (2, 3, 1)), ((2, 2), (2, 2)), ((2, 2), (3, 3, 1))):
        with pytest.raises(ValueError, match="modality_choice needs"):
            about = torch.zeros(whole[0], dtype=torch.int64)
            modality_choice(
                torch.randn(whole), torch.randn(score), modality_N=about, temperature=0.1
            )
