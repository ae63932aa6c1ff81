"""ALIGN, Jia et al. 2021, arXiv:2102.05918: section 4, equations 1 and 2."""

import pytest

from tests.golden.harness import defaults, golden
from tests.golden.pairs import PairsOfFields


class Align(PairsOfFields):
    temperature, max_scale, smoothing = 1.0, 100.0, 0.1

    def loss(self, logits):
        """The sum of both directions, with smoothed labels."""
        return self.direction(logits) + self.direction(logits.T)

    def direction(self, logits):
        n, total = len(logits), 0
        for i in range(n):
            for j in range(n):
                wanted = self.smoothing / n + (1 - self.smoothing) * (i == j)
                total = total - wanted * (logits[i, j] - logits[i].logsumexp(0))
        return total / n


def align(**options):
    return type("Align", (Align,), options)


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
def test_two_steps(fields):
    golden("align", Align, views=("weak",), fields=fields, width=8)


@pytest.mark.parametrize("options", [{"temperature": 0.2, "smoothing": 0.4}, {"smoothing": 0.0}])
def test_two_steps_with_other_options(options):
    golden("align", align(**options), views=("weak",), width=8, **options)


def test_two_steps_at_the_bound():
    reference = align(temperature=0.1, max_scale=4.0)
    golden("align", reference, views=("weak",), width=8, temperature=0.1, min_temperature=0.25)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_pair_and_none(rows):
    golden("align", Align, views=("weak",), rows=rows, width=8)


def test_defaults():
    """Sections 4.2 and 5; EfficientNet-B7's features, the middle one of table 7, are 640 wide."""
    assert defaults("align") == {
        "width": 640,
        "temperature": 1.0,
        "min_temperature": 0.01,
        "smoothing": 0.1,
    }
