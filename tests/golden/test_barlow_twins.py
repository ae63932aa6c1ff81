"""Barlow Twins, Zbontar et al. 2021, arXiv:2103.03230: equations 1 and 2."""

import pytest
import torch

from amodal.nn.heads.projectors import Projector
from amodal.objectives.barlow import barlow_twins as objective
from tests.golden.harness import Reference, defaults, golden, pairs_of_views, projector


class BarlowTwins(Reference):
    off_diagonal = 0.005

    def check_start(self):
        """Section 2.2: three linear layers, all as wide as the output."""
        self.assert_shapes(
            heads__picture__0__weight=(8, self.encoder.width),
            heads__picture__3__weight=(8, 8),
            heads__words__6__weight=(8, 8),
        )
        assert max(int(name.split(".")[2]) for name in self.w) == 6

    def losses(self, batch):
        columns = self.encoder(batch).columns
        z = {s: projector(self.w, f"heads.{s[:-2]}", c.values) for s, c in columns.items()}
        pairs = pairs_of_views(list(z))
        return {f"barlow/{a}~{b}": self.loss(z[a], z[b]) / len(pairs) for a, b in pairs}

    def loss(self, first, second):
        """C is the correlation of embeddings along the batch (equation 2). Each is divided by its
        standard deviation as BatchNorm computes it, with 1e-5, as in the authors' code."""
        n, width = first.shape
        if n < 2:
            return 0 * (first.sum() + second.sum())
        a, b = (
            (x - x.mean(0)) / ((x - x.mean(0)).square().mean(0) + 1e-5).sqrt()
            for x in (first, second)
        )
        c = torch.stack(
            [
                torch.stack([(a[:, i] * b[:, j]).sum() / n for j in range(width)])
                for i in range(width)
            ]
        )
        total = 0
        for i in range(len(c)):
            row = c[i] ** 2
            total = total + (1 - c[i, i]) ** 2 + self.off_diagonal * (row.sum() - row[i])
        return total


@pytest.mark.parametrize("weight", [0.005, 0.3])
def test_two_steps(weight):
    reference = type("BarlowTwins", (BarlowTwins,), {"off_diagonal": weight})
    golden("barlow_twins", reference, views=("strong", "strong"), width=8, off_diagonal=weight)


def test_one_row_and_none_have_no_correlation():
    for rows in (1, 2):
        golden("barlow_twins", BarlowTwins, views=("strong", "strong"), rows=rows, width=8)


def test_defaults():
    """Lambda: section 2.2. The paper's projector has 8192 outputs; the page says 2048."""
    assert defaults("barlow_twins") == {"width": 2048, "off_diagonal": 0.005}


def test_the_objective_alone_has_the_lambda_of_the_paper():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 4, generator=g, dtype=torch.float64) for _ in range(2))
    assert torch.isclose(objective(a, b), BarlowTwins.loss(BarlowTwins, a, b))


@pytest.mark.parametrize("layers", [2, 4])
def test_projectors_of_other_papers(layers):
    """With a norm without weights at the end, which is why the last layer needs no bias (SimSiam,
    section 3); without a norm and without a bias (BYOL, appendix)."""
    normed = Projector(5, 3, hidden=7, layers=layers, last_norm=True).double()
    bare = Projector(5, 3, hidden=7, layers=layers, last_bias=False).double()
    wide = Projector(5, 3, layers=layers)
    middle = [(7, 5), *[(7, 7)] * (layers - 2)]
    hidden = [shape for matrix in middle for shape in (matrix, (7,), (7,))]
    assert [tuple(p.shape) for p in normed.parameters()] == [*hidden, (3, 7)]
    assert [tuple(p.shape) for p in bare.parameters()] == [*hidden, (3, 7)]
    assert {tuple(p.shape) for p in wide.parameters()} == {(3, 5), (3,), (3, 3)}
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=g, dtype=torch.float64)
    y = normed(x)
    assert y.mean(0).abs().max() < 1e-9
    assert normed[-1].weight is None
    z = x
    for layer in list(normed)[:-1]:
        z = layer(z)
    assert torch.allclose(y, (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt())
