"""The benefits of balance, Liu, Mehta, Pal and Harchaoui 2024, arXiv:2408.15065: section 4, losses of
zero, one and two steps of balancing, as in the authors' code."""

import pytest
import torch

from tests.golden.harness import defaults, golden
from tests.golden.pairs import PairsOfFields
from tests.methods.bench import method


class Balance(PairsOfFields):
    term, steps = "balanced", 2

    def loss(self, logits):
        """Joint probabilities of pairs are rescaled to uniform marginals, rows first and columns
        first; the loss is the mean of both."""
        if self.steps == 0:
            return -(logits.diagonal() - logits.flatten().logsumexp(0)).mean()
        both = [self.balanced(logits, axis).diagonal().mean() for axis in (0, 1)]
        return -sum(both) / 2

    def balanced(self, logits, axis):
        for step in range(self.steps):
            along = (axis + step) % 2
            logits = logits - logits.logsumexp(along, keepdim=True)
        return logits


def balance(**options):
    return type("Balance", (Balance,), options)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
def test_two_steps(steps):
    golden("balance", balance(steps=steps), views=("weak",), width=8, steps=steps)


@pytest.mark.parametrize("steps", [2, 3])
def test_two_steps_of_many_rows(steps):
    """The matrix of 260 pairs is held whole and rescaled in place of its logarithm."""
    options = {"rows": 520, "width": 8, "steps": steps, "temperature": 0.3}
    reference = balance(steps=steps, temperature=0.3)
    golden("balance", reference, views=("weak",), fields=("facts", "words"), **options)


def test_two_steps_of_three_fields():
    golden("balance", Balance, views=("weak",), fields=("picture", "words", "facts"), width=8)


@pytest.mark.parametrize("options", [{"temperature": 0.3}, {"temperature": 2.0, "max_scale": 0.4}])
def test_two_steps_at_another_temperature(options):
    golden("balance", balance(**options), views=("weak",), width=8, **options)


def test_two_steps_at_the_fixed_temperature_of_the_authors():
    options = {"temperature": 0.01, "learn_temperature": False, "width": 8}
    golden("balance", balance(temperature=0.01), views=("weak",), tolerance=1e-8, **options)
    page = method("balance", **options)
    assert not page.learned.log.requires_grad


class WithPerceptrons(Balance):
    """The authors' MiniCLIP: hidden layers with ReLU."""

    layers = 2

    def check_start(self):
        super().check_start()
        for head in self.encoder.heads.values():
            kinds = [type(m).__name__ for m in head]
            assert kinds == ["Linear", "ReLU"] * self.layers + ["Linear"]
            widths = [m.out_features for m in head if isinstance(m, torch.nn.Linear)]
            assert widths == [12] * self.layers + [self.width]


@pytest.mark.parametrize("layers", [1, 2])
def test_two_steps_with_perceptrons_as_heads(layers):
    reference = type("WithPerceptrons", (WithPerceptrons,), {"layers": layers})
    golden("balance", reference, views=("weak",), width=8, hidden=12, layers=layers)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("steps", [0, 2])
def test_one_pair_and_none(rows, steps):
    golden("balance", balance(steps=steps), views=("weak",), rows=rows, width=8, steps=steps)


def test_defaults():
    """The paper's best loss; 0.07 is CLIP's, and the page says so."""
    assert defaults("balance") == {
        "steps": 2,
        "width": 128,
        "hidden": 0,
        "layers": 2,
        "temperature": 0.07,
        "max_scale": 100.0,
        "learn_temperature": True,
    }
