"""Choi, Beedu and Essa 2023, arXiv:2309.01262: the loss of Robinson et al. (arXiv:2010.04592, eq. 4
with the importance weights of section 3.2) on pairs of sensors."""

import itertools
import math

import pytest
import torch

from tests.golden.harness import Reference, common, defaults, golden, unit


class HardNegatives(Reference):
    beta, prior, temperature, within, width = 1.0, 0.1, 0.5, True, 8

    def check_start(self):
        assert self.min_batch_size == 2 and self.encoder.space_width == self.width
        assert not self.w  # nothing learns but the encoder and its heads

    def losses(self, batch):
        z = {f: self.head(f, c) for f, c in self.encoder.features(batch).columns.items()}
        pairs, terms = list(itertools.combinations(z, 2)), {}
        for a, b in pairs:
            x, y = (unit(v) for v in common(z, a, b))
            terms[f"hard/{a}~{b}"] = self.loss(x, y) / len(pairs)
        return terms

    def head(self, field, column):
        """A perceptron with one hidden layer as wide as the features."""
        first, _, second = self.encoder.heads[field]
        assert first.out_features == self.encoder.width
        x = torch.nn.functional.linear(column.values, first.weight, first.bias)
        x = x * (1 + torch.erf(x / 2**0.5)) / 2
        return type(column)(x @ second.weight.T, column.rows)

    def loss(self, x, y):
        n, losses = len(x), []
        if n < 2:
            return 0 * (x.sum() + y.sum())
        for own, other in ((x, y), (y, x)):
            for i in range(n):
                negatives = [other[j] for j in range(n) if j != i]
                if self.within:
                    negatives += [own[j] for j in range(n) if j != i]
                losses.append(self.of_anchor(own[i], other[i], negatives))
        return sum(losses) / len(losses)

    def of_anchor(self, anchor, positive, negatives):
        matched = (anchor @ positive / self.temperature).exp()
        scores = torch.stack([anchor @ negative / self.temperature for negative in negatives])
        weights = (self.beta * scores).exp()
        weights = weights / weights.mean()
        hard = (weights * scores.exp()).mean()
        hard = (hard - self.prior * matched) / (1 - self.prior)
        least = math.exp(-1 / self.temperature)
        hard = hard if float(hard.detach()) > least else torch.full_like(hard, least)
        return -(matched / (matched + len(negatives) * hard)).log()


def hold(fields=("signal", "facts"), rows=6, **options):
    options = {"width": 8} | options
    known = {k: v for k, v in options.items() if hasattr(HardNegatives, k)}
    reference = type("HardNegatives", (HardNegatives,), known)
    golden("hardneg_har", reference, views=("strong",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize("fields", [("signal", "facts"), ("picture", "signal", "facts")])
def test_two_steps(fields):
    hold(fields)


@pytest.mark.parametrize(
    "options",
    [
        {"within": False},
        {"beta": 0.0, "prior": 0.0},  # InfoNCE over the negatives of both
        {"beta": 2.5, "prior": 0.3, "temperature": 0.2},
        # of some anchors the negatives are at their bound
        {"prior": 0.9, "within": False},
        {"beta": 0.5, "prior": 0.97, "within": False, "temperature": 0.2},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_pair_and_none(rows):
    hold(rows=rows)


def test_defaults():
    """Within the ranges of Robinson et al., section 4: beta from 0.5 to 2, a prior of 0.1."""
    assert defaults("hardneg_har") == {
        "beta": 1.0,
        "prior": 0.1,
        "temperature": 0.5,
        "width": 128,
        "within": True,
    }
    hold(width=128)
