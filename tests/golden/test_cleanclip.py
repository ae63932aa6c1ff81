"""CleanCLIP, Bansal et al. 2023, arXiv:2303.03323: the loss of section 4.1."""

import itertools

import pytest
import torch

from amodal.methods.robustness.cleanclip import PAPER_RECIPE
from tests.golden.harness import common, defaults, golden, unit
from tests.golden.pairs import PairsOfFields


class CleanClip(PairsOfFields):
    """Pairs of fields as they are, and of each field a value with its augmentation."""

    cross, within = 1.0, 1.0

    def losses(self, batch):
        columns = self.encoder(batch).columns
        first = [s for s in columns if s.endswith(":1")]
        pairs = list(itertools.combinations(first, 2))
        terms = {}
        for a, b in pairs:
            x, y = (unit(z) for z in common(columns, a, b))
            both = (self.one_way(x, y) + self.one_way(y, x)) / 2
            terms[f"info_nce/{a}~{b}"] = self.cross * both / len(pairs)
        for a in first:
            b = a.replace(":1", ":2")
            x, y = (unit(columns[s].values) for s in (a, b))
            terms[f"info_nce/{a}>{b}"] = self.within * self.one_way(x, y) / len(first)
        return terms

    def one_way(self, x, y):
        """Row i of the first is a query, row i of the second is what it has to find."""
        n = len(x)
        if n < 2:
            return 0 * (x.sum() + y.sum())
        logits = [[x[i] @ y[j] * self.scale() for j in range(n)] for i in range(n)]
        return sum(torch.stack(row).logsumexp(0) - row[i] for i, row in enumerate(logits)) / n


def check(fields=("picture", "words"), rows=6, **options):
    reference = type("CleanClip", (CleanClip,), dict(options))
    views = ("plain", "strong")
    golden("cleanclip", reference, views=views, fields=fields, rows=rows, **{"width": 8} | options)


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
def test_two_steps(fields):
    check(fields)


@pytest.mark.parametrize(
    "options",
    [
        {"cross": 0.3, "within": 4.0, "temperature": 0.5},
        {"within": 0.0, "temperature": 0.015},
        {"cross": 0.0, "max_scale": 3.0},
    ],
)
def test_two_steps_with_other_options(options):
    check(**options)


def test_one_pair_and_none():
    for rows in (1, 2):
        check(rows=rows)


def test_defaults():
    """The authors' program: both weights 1, CLIP's temperature and bound."""
    assert defaults("cleanclip") == {
        "cross": 1.0,
        "within": 1.0,
        "width": 128,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    check(width=128)


def test_recipe():
    """The authors' command for the fine-tuning, and the defaults of their program."""
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.betas, r.weight_decay) == ("adamw", 1e-5, (0.9, 0.999), 0.1)
    assert (r.batch_size, r.epochs, r.warmup_steps, r.schedule) == (64, 10.0, 50, "cosine")
    assert r.clip == 0
