"""Kernel-InfoNCE, Tan et al. 2023, arXiv:2303.15103: Kernel-InfoNCE of section
6, on two views of a picture (section 4) and on the pair graph of CLIP (section 5)."""

import itertools

import pytest
import torch

from tests.golden.harness import Reference, common, defaults, golden, projector, unit


def distance(a, b):
    return ((a - b) ** 2).sum().sqrt()


class KernelInfoNCE(Reference):
    """The kernel of exponent gamma is exp(-|a - b|^gamma / temperature), of unit vectors."""

    mixture, gamma, other_gamma, weight, temperature, width = "sum", 1.0, 2.0, 0.5, 0.5, 8

    def check_start(self):
        """The authors' program: for the concatenation, vectors are twice as wide."""
        wide = 2 * self.width if self.mixture == "concatenation" else self.width
        assert self.encoder.space_width == wide and self.min_batch_size == 2
        assert not self.w  # nothing is learned but the encoder

    def losses(self, batch):
        columns = self.encoder(batch).columns
        pairs = list(itertools.combinations(columns, 2))
        terms = {}
        for a, b in pairs:
            x, y = (unit(z) for z in common(columns, a, b))
            loss = self.mixed(x, y) if len(x) > 1 else 0 * (x.sum() + y.sum())
            terms[f"kernel/{a}~{b}"] = loss / len(pairs)
        return terms

    def mixed(self, x, y):
        """Both kernels on all coordinates, or each on half of them, which are not unit vectors."""
        one, other = self.gamma, self.other_gamma
        if self.mixture == "none":
            return self.loss(x, y, one)
        if self.mixture == "sum":
            first, second = self.loss(x, y, one), self.loss(x, y, other)
        else:
            n = x.shape[1] // 2
            first = self.loss(x[:, :n], y[:, :n], one)
            second = self.loss(x[:, n:], y[:, n:], other)
        return self.weight * first + (1 - self.weight) * second

    def loss(self, x, y, gamma):
        """Row i of one field is the positive of row i of the other; the graph has two sides, so
        that the rest of the other field are its negatives."""
        n, total = len(x), 0
        for a, b in ((x, y), (y, x)):
            for i in range(n):
                k = [(-(distance(a[i], b[j]) ** gamma) / self.temperature).exp() for j in range(n)]
                total = total - (k[i] / sum(k)).log() / (2 * n)
        return total


class OfOneField(KernelInfoNCE):
    """Section 4: two augmented views of each value, which are one another's positives."""

    def check_start(self):
        """The authors' head: one hidden layer, as wide as what the encoder gives."""
        out = 2 * self.width if self.mixture == "concatenation" else self.width
        wide = self.encoder.width
        self.assert_shapes(
            heads__picture__0__weight=(wide, wide), heads__picture__3__weight=(out, wide)
        )

    def losses(self, batch):
        columns = self.encoder(batch).columns
        x, y = (
            unit(projector(self.w, "heads.picture", columns[f"picture:{v}"].values)) for v in (1, 2)
        )
        loss = self.mixed(x, y) if len(x) > 1 else 0 * (x.sum() + y.sum())
        return {"kernel/picture:1~picture:2": loss}

    def loss(self, x, y, gamma):
        """Equation 1: all other vectors of both views are in the denominator."""
        z, n = torch.cat([x, y]), len(x)
        total = 0
        for i in range(2 * n):
            k = {
                j: (-(distance(z[i], z[j]) ** gamma) / self.temperature).exp()
                for j in range(2 * n)
                if j != i
            }
            total = total - (k[(i + n) % (2 * n)] / sum(k.values())).log() / (2 * n)
        return total


def check(fields=("picture", "words"), rows=6, **options):
    base = KernelInfoNCE if len(fields) > 1 else OfOneField
    golden(
        "kernel_infonce",
        type("Reference", (base,), dict(options)),
        views=("weak",) if len(fields) > 1 else ("strong", "strong"),
        fields=fields,
        rows=rows,
        **{"width": 8} | options,
    )


FIELDS = [("picture",), ("picture", "words"), ("picture", "words", "facts")]


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("mixture", ["none", "sum", "concatenation"])
def test_two_steps(mixture, fields):
    check(fields, mixture=mixture)


@pytest.mark.parametrize("fields", FIELDS[:2])
@pytest.mark.parametrize("mixture", ["none", "sum", "concatenation"])
def test_two_steps_with_other_options(mixture, fields):
    check(fields, mixture=mixture, gamma=0.5, other_gamma=1.5, weight=0.2, temperature=0.3)


@pytest.mark.parametrize("fields", FIELDS[:2])
def test_one_pair_and_none(fields):
    for rows in (1, 2):
        check(fields, rows=rows)


def test_defaults():
    """Section 6: the mixture of a Laplacian and a Gaussian kernel; 128 dimensions are the authors'
    program's. Temperature and weight the paper searches for, so that these are ours."""
    assert defaults("kernel_infonce") == {
        "mixture": "sum",
        "gamma": 1.0,
        "other_gamma": 2.0,
        "weight": 0.5,
        "temperature": 0.5,
        "width": 128,
    }
    check(width=128)
