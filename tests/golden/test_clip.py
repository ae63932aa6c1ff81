"""CLIP, Radford et al. 2021, arXiv:2103.00020: figure 3, for every two fields of a record."""

import itertools

import pytest
import torch

from tests.golden.harness import Reference, common, defaults, golden, unit


def cross_entropy(logits):
    """Row i's class is i."""
    n = len(logits)
    return sum(logits[i].logsumexp(0) - logits[i, i] for i in range(n)) / n


class Clip(Reference):
    limit, temperature, width = 100.0, 0.07, 8

    def check_start(self):
        assert self.encoder.space_width == self.width
        assert self.min_batch_size == 2  # one pair has no negative
        begin = self.w["learned.log"].detach().exp()
        assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)

    def scale(self):
        """Section 2.5: the logits are scaled by at most 100. Where the paper clips the parameter
        after a step, the page clips its value and lets the gradient through; so does this."""
        log = self.w["learned.log"]
        if log.detach().exp() > self.limit:
            return self.limit * (log - log.detach()).exp()
        return log.exp()

    def losses(self, batch):
        columns = self.encoder(batch).columns
        pairs = list(itertools.combinations(columns, 2))
        terms = {}
        for a, b in pairs:
            x, y = (unit(z) for z in common(columns, a, b))
            if not len(x):
                terms[f"info_nce/{a}~{b}"] = 0 * (x.sum() + y.sum())
                continue
            logits = x @ y.T * self.scale()
            loss = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
            terms[f"info_nce/{a}~{b}"] = loss / len(pairs)
        return terms


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
def test_two_steps(fields):
    golden("clip", Clip, views=("weak",), fields=fields, width=8)


@pytest.mark.parametrize("temperature", [0.3, 0.015])
def test_two_steps_at_another_temperature(temperature):
    reference = type("Clip", (Clip,), {"temperature": temperature})
    golden("clip", reference, views=("weak",), width=8, temperature=temperature)


def test_two_steps_at_the_bound():
    reference = type("Clip", (Clip,), {"limit": 5.0})
    golden("clip", reference, views=("weak",), width=8, max_scale=5.0)


def test_one_pair_and_none():
    for rows in (1, 2):
        golden("clip", Clip, views=("weak",), rows=rows, width=8)


def test_defaults():
    """0.07 and 100: section 2.5."""
    assert defaults("clip") == {"width": 128, "temperature": 0.07, "max_scale": 100.0}
    golden("clip", type("Clip", (Clip,), {"width": 128}), views=("weak",))
