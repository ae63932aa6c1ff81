"""MultiMat, Moro et al. 2025, arXiv:2312.00111: the losses of its methods section, with the authors' code
(src/loss) for what is summed and what is averaged."""

import itertools
import math

import pytest
import torch

from amodal import methods
from tests.golden.harness import Reference, defaults, golden, unit


class MultiMat(Reference):
    loss, anchor, width, temperature, ways = "anchored", "picture", 8, 0.2, 3
    half, tuples, off_diagonal = False, 128, 5.1e-3

    def check_start(self):
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        assert not self.w

    def losses(self, batch):
        columns = self.encoder(batch).columns
        fields = list(columns)
        if self.loss == "anchored":
            sets = [(self.anchor, f) for f in fields if f != self.anchor]
        elif self.loss == "all_pairs":
            sets = list(itertools.combinations(fields, 2))
        else:
            sets = list(itertools.combinations(fields, min(self.ways, len(fields))))
        name = self.loss if self.loss in ("tensor", "barlow") else "info_nce"
        terms = {}
        for group in sets:
            rows = set.intersection(*(set(columns[f].rows.tolist()) for f in group))
            z = [
                columns[f].values[[columns[f].rows.tolist().index(r) for r in sorted(rows)]]
                for f in group
            ]
            terms[f"{name}/{'~'.join(group)}"] = getattr(self, name)(z) / len(sets)
        return terms

    def info_nce(self, z):
        a, b = (unit(x) for x in z)
        if len(a) < 2:
            return 0 * (a.sum() + b.sum())
        logits, total = a @ b.T / self.temperature, 0
        for i in range(len(a)):
            total = total + logits[i].logsumexp(0) + logits[:, i].logsumexp(0) - 2 * logits[i, i]
        return total / len(a) / 2

    def tensor(self, z):
        """Tuples of rows compete, along each field: those of one row against all others. The mean
        over fields and rows; of neighbouring rows in blocks."""
        z, least = [unit(x) for x in z], 3 if self.half else 2
        total, rows = 0 * sum(x.sum() for x in z), 0
        for start in range(0, len(z[0]), self.tuples):
            block = [x[start : start + self.tuples] for x in z]
            n = len(block[0])
            if n < least:
                continue
            rows += n
            index = list(itertools.product(range(n), repeat=len(z)))
            logit = {}
            for i in index:
                parts = [x[k] for x, k in zip(block, i)]
                logit[i] = math.prod(parts[1:], start=parts[0]).sum() / self.temperature
            for axis, r in itertools.product(range(len(z)), range(n)):
                row = [i for i in index if i[axis] == r]
                total = total + self.of_row(row, logit) / len(z)
        return total / max(rows, 1)

    def of_row(self, row, logit):
        negatives = [i for i in row if len(set(i)) == len(i)] if self.half else row
        everything = torch.stack([logit[i] for i in negatives]).logsumexp(0)
        weights = {1: 1.0, 2: 0.5 if self.half else 0.0}
        return sum(weights.get(len(set(i)), 0.0) * (everything - logit[i]) for i in row)

    def barlow(self, z):
        """Each dimension of each field is standardised; products of one dimension average to 1."""
        n = len(z[0])
        if n < 2:
            return 0 * sum(x.sum() for x in z)
        z = [(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in z]
        total = 0
        for i in itertools.product(range(z[0].shape[1]), repeat=len(z)):
            parts = [x[:, k] for x, k in zip(z, i)]
            c = math.prod(parts[1:], start=parts[0]).mean()
            total = total + ((1 - c) ** 2 if len(set(i)) == 1 else self.off_diagonal * c**2)
        return total


def multimat(**options):
    return type("MultiMat", (MultiMat,), options)


TWO, THREE = ("picture", "words"), ("picture", "words", "facts")
FOUR = (*THREE, "signal")


@pytest.mark.parametrize(
    "fields, options",
    [
        (TWO, {}),
        (FOUR, {"temperature": 0.5}),
        (THREE, {"anchor": "words"}),
        (THREE, {"loss": "all_pairs", "temperature": 0.1}),
        (THREE, {"loss": "tensor"}),
        (THREE, {"loss": "tensor", "ways": 2, "temperature": 0.5}),
        (THREE, {"loss": "tensor", "half": True}),
        (TWO, {"loss": "tensor"}),
        (FOUR, {"loss": "barlow", "width": 3}),
        (THREE, {"loss": "barlow", "ways": 2, "width": 4, "off_diagonal": 0.3}),
    ],
)
def test_two_steps(fields, options):
    own = {"width": 8} | options
    golden("multimat", multimat(**own), views=("weak",), fields=fields, **own)


@pytest.mark.parametrize("half", [False, True])
def test_rows_compete_in_blocks(half):
    """Of ten rows seven have all fields, in blocks of three: the last one has no rival."""
    own = {"loss": "tensor", "half": half, "tuples": 3, "width": 4}
    golden("multimat", multimat(**own), views=("weak",), fields=THREE, rows=14, **own)


@pytest.mark.parametrize("loss", ["anchored", "all_pairs", "tensor", "barlow"])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_few_rows(loss, rows):
    own = {"loss": loss, "width": 3}
    golden("multimat", multimat(**own), views=("weak",), fields=THREE, rows=rows, **own)


def test_defaults():
    """Section 4, and multimat.py of the authors."""
    assert defaults("multimat") == {
        "loss": "anchored",
        "anchor": "",
        "width": 128,
        "temperature": 0.2,
        "ways": 3,
        "half": False,
        "tuples": 128,
        "off_diagonal": 0.0051,
    }


def test_recipe():
    r = methods.paper_recipe("multimat")
    assert r.scaled(r.lr, r.batch_size) == pytest.approx(5e-5) and r.betas == (0.9, 0.95)
    assert (r.optimizer, r.weight_decay, r.clip) == ("adamw", 0.05, 0.0)
    assert (r.schedule, r.warmup_epochs, r.batch_size, r.epochs) == ("cosine", 10, 128, 500)
