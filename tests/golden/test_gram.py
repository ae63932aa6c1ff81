"""GRAM, Cicchetti, Grassucci, Sigillo and Comminiello 2025, arXiv:2412.11959: section 3, with the
label smoothing of the authors' code."""

import pytest
import torch

from amodal.objectives.gram_volume import gram_info_nce, gram_volume
from tests.golden.harness import defaults, golden, unit
from tests.golden.pairs import PairsOfFields


class Gram(PairsOfFields):
    anchor, smoothing = "words", 0.1

    def losses(self, batch):
        """Rows that have the same fields compete as tuples; for a tuple, all rows that have its
        anchor do. The paper's records are complete, so there all of a batch compete for both."""
        vectors = {
            s: dict(zip(c.rows.tolist(), unit(c.values)))
            for s, c in self.encoder(batch).columns.items()
        }
        order = sorted(vectors, key=lambda s: s != self.anchor)
        groups = {}
        for row in range(batch.size):
            names = tuple(s for s in order if row in vectors[s])
            if len(names) > 1:
                groups.setdefault(names, []).append(row)
        total = 0 * sum(v.sum() for column in vectors.values() for v in column.values())
        for names, rows in groups.items():
            first, others = vectors[names[0]], [vectors[s] for s in names[1:]]
            anchors = rows + [r for r in first if r not in rows]
            logits = [[self.logit(first[a], [o[r] for o in others]) for r in rows] for a in anchors]
            logits = torch.stack([torch.stack(row) for row in logits])
            to_data = self.direction(logits[: len(rows)])
            to_anchor = self.direction(logits.T)
            if len(anchors) > 1:
                total = total + len(rows) * (to_data + to_anchor) / 2
        return {"volume": total / max(sum(map(len, groups.values())), 1)}

    def logit(self, anchor, others):
        return -self.volume([anchor, *others]) * self.scale()

    def volume(self, vectors):
        """Of the parallelotope of some vectors, the root of the determinant of their products."""
        a = torch.stack(vectors)
        return torch.linalg.det(a @ a.T).abs().sqrt()

    def direction(self, logits):
        """Cross-entropy of smoothed labels: entry i of row i is meant."""
        total = 0
        for i, row in enumerate(logits):
            for j in range(len(row)):
                wanted = self.smoothing / len(row) + (1 - self.smoothing) * (i == j)
                total = total - wanted * (row[j] - row.logsumexp(0))
        return total / len(logits)


def gram(**options):
    return type("Gram", (Gram,), options)


@pytest.mark.parametrize(
    "fields", [("picture", "words"), ("picture", "words", "facts"), ("picture", "signal")]
)
def test_two_steps(fields):
    anchor = "words" if "words" in fields else "picture"
    golden("gram", gram(anchor=anchor), views=("weak",), fields=fields, width=8, rows=9)


def test_two_steps_of_four_fields():
    """The anchor is the first text, unless another is named."""
    fields = ("picture", "words", "signal", "facts")
    golden("gram", Gram, views=("weak",), fields=fields, width=8, rows=8)
    golden("gram", gram(anchor="signal"), views=("weak",), fields=fields, width=8, anchor="signal")


@pytest.mark.parametrize(
    "options",
    [
        {"smoothing": 0.0},
        {"smoothing": 0.4, "temperature": 0.2},
        {"temperature": 2.0, "max_scale": 0.4},
    ],
)
def test_two_steps_with_other_options(options):
    golden("gram", gram(**options), views=("weak",), width=8, **options)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_tuple_and_none(rows):
    golden("gram", Gram, views=("weak",), rows=rows, width=8)


def test_defaults():
    """Section 4: width and temperature; smoothing as in the authors' code."""
    assert defaults("gram") == {
        "anchor": "",
        "width": 512,
        "temperature": 0.07,
        "max_scale": 100.0,
        "smoothing": 0.1,
    }


def test_equal_vectors_span_a_volume_with_a_finite_slope():
    """The root of a determinant has none at 0, so each sine is at least 1e-3."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4, 5, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(gram_volume([a, a]), torch.tensor(1e-3).double())
    loss = gram_info_nce(a, [a, a], temperature=0.5)
    loss.backward()
    assert loss.isfinite() and a.grad.isfinite().all()


@pytest.mark.parametrize("anchors", [0, 1])
def test_a_tuple_without_others_is_no_task(anchors):
    a = torch.randn(1, 5)[:anchors]
    more = None if anchors else torch.randn(3, 5)
    assert gram_info_nce(a, [a], temperature=0.5, extra_anchor_MD=more) == 0
