"""LiT, Zhai et al. 2022, arXiv:2111.07991: contrastive tuning with one tower locked, section 3."""

import pytest

from tests.golden.harness import defaults, golden
from tests.golden.pairs import PairsOfFields


class Lit(PairsOfFields):
    locked = ("picture",)

    def __init__(self, page):
        super().__init__(page)
        for name, p in self.encoder.named_parameters():
            p.requires_grad_(not self.is_locked(name))

    def is_locked(self, name):
        """All of a locked tower; the map from it to the common space is trained."""
        return name.split(".")[1] in self.locked and not name.startswith("heads.")

    def loss(self, logits):
        n = len(logits)
        rows = sum(logits[i].logsumexp(0) - logits[i, i] for i in range(n))
        columns = sum(logits[:, i].logsumexp(0) - logits[i, i] for i in range(n))
        return (rows + columns) / n / 2


def lit(**options):
    return type("Lit", (Lit,), options)


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
def test_two_steps(fields):
    golden("lit", Lit, views=("weak",), fields=fields, width=8)


@pytest.mark.parametrize(
    "lock,locked", [("words", ("words",)), ("words, facts", ("words", "facts"))]
)
def test_two_steps_with_other_fields_locked(lock, locked):
    fields = ("picture", "words", "facts")
    golden("lit", lit(locked=locked), views=("weak",), fields=fields, width=8, lock=lock)


@pytest.mark.parametrize("options", [{"temperature": 0.3}, {"temperature": 2.0, "max_scale": 0.4}])
def test_two_steps_at_another_temperature(options):
    golden("lit", lit(**options), views=("weak",), width=8, **options)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_pair_and_none(rows):
    golden("lit", Lit, views=("weak",), rows=rows, width=8)


def test_defaults():
    assert defaults("lit") == {"lock": "", "width": 128, "temperature": 0.07, "max_scale": 100.0}
