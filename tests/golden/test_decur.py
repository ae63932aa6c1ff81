"""DeCUR, Wang et al. 2024, arXiv:2309.05300, with the weights of the authors' code."""

import itertools

import pytest
import torch

from tests.golden.harness import Reference, common, defaults, golden, pairs_of_views, projector


class Decur(Reference):
    common, off_diagonal, width = 0.875, 0.0051, 8

    def check_start(self):
        """A projector of three linear layers, all as wide as its output."""
        self.assert_shapes(
            heads__picture__0__weight=(self.width, self.encoder.width),
            heads__picture__3__weight=(self.width, self.width),
            heads__picture__6__weight=(self.width, self.width),
        )
        assert max(int(name.split(".")[2]) for name in self.w) == 6
        assert self.min_batch_size == 2

    def losses(self, batch):
        columns = self.encoder(batch).columns
        z = dict(columns)
        for s, column in columns.items():
            made = projector(self.w, f"heads.{s.partition(':')[0]}", column.values)
            z[s] = type(column)(made, column.rows)
        within = pairs_of_views(list(z))
        terms = {f"within/{a}~{b}": self.within(*common(z, a, b)) for a, b in within}
        fields = list(dict.fromkeys(s.partition(":")[0] for s in z))
        for a, b in itertools.combinations(fields, 2):
            one, other = f"{a}:1", f"{b}:1"
            agree, differ = self.across(*common(z, one, other))
            terms |= {f"common/{one}~{other}": agree / 2, f"unique/{one}~{other}": differ / 2}
        return terms

    def correlation(self, a, b):
        """Each dimension is standardised over the batch, as BatchNorm does it."""
        a, b = ((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in (a, b))
        n, width = a.shape
        rows = [[(a[:, i] * b[:, j]).sum() / n for j in range(width)] for i in range(width)]
        return torch.stack([torch.stack(row) for row in rows])

    def block(self, c, wanted):
        """The diagonal shall be 1 or 0; what is beside it, 0."""
        total = 0 * c.sum()
        for i, j in itertools.product(range(len(c)), repeat=2):
            error = (wanted - c[i, j]) ** 2 if i == j else self.off_diagonal * c[i, j] ** 2
            total = total + error
        return total

    def within(self, a, b):
        """All dimensions of two views of one field agree."""
        return self.block(self.correlation(a, b), 1) if len(a) > 1 else 0 * (a.sum() + b.sum())

    def across(self, a, b):
        """Of two fields the first dimensions agree, the others do not."""
        if len(a) < 2:
            return [0 * (a.sum() + b.sum())] * 2
        c, split = self.correlation(a, b), round(self.common * a.shape[1])
        return self.block(c[:split, :split], 1), self.block(c[split:, split:], 0)


def decur(**options):
    return type("Decur", (Decur,), options)


@pytest.mark.parametrize("options", [{}, {"common": 0.5, "off_diagonal": 0.3}, {"common": 0.125}])
def test_two_steps(options):
    golden("decur", decur(**options), views=("strong", "strong"), width=8, **options)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_row_has_no_correlation(rows):
    golden("decur", Decur, views=("strong", "strong"), rows=rows, width=8)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_dimensions_in_one_block(share):
    """All unique, and all common, which is a Barlow Twins between two fields."""
    golden("decur", decur(common=share), views=("strong", "strong"), width=8, common=share)


def test_a_pair_of_three_fields_counts_half():
    """So that what a field shares weighs as much beside its own views as with two fields."""

    class OfThree(Decur):
        def losses(self, batch):
            terms = super().losses(batch)
            return {n: t if n.startswith("within") else t / 2 for n, t in terms.items()}

    fields = ("picture", "words", "signal")
    golden("decur", OfThree, views=("strong", "strong"), fields=fields, width=8)


def test_defaults():
    """Lambda and the share: authors' scripts for radar and optical images; the page says that its
    projector is narrower."""
    assert defaults("decur") == {"width": 2048, "common": 0.875, "off_diagonal": 0.0051}
