"""MV-DHEL and MV-InfoNCE, Koromilas et al. 2025, arXiv:2507.06979, and the losses of pairs that it
compares them with, as in the authors' code."""

import itertools

import pytest
import torch

from tests.golden.harness import Reference, batch_norm, defaults, golden, projector, unit


class MultiView(Reference):
    loss, temperature, width = "mv_dhel", 0.5, 8

    def check_start(self):
        assert self.min_batch_size == 2
        if self.encoder.heads is None:
            self.assert_shapes(
                heads__picture__0__weight=(self.encoder.width, self.encoder.width),
                heads__picture__3__weight=(self.width, self.encoder.width),
            )
        else:
            assert self.encoder.space_width == self.width

    def losses(self, batch):
        columns = self.encoder(batch).columns
        if self.encoder.heads is None:
            z = {s: projector(self.w, "heads.picture", c.values) for s, c in columns.items()}
        else:
            z = {s: c.values for s, c in columns.items()}
        self.zero = 0 * sum(x.sum() for x in z.values())
        rows = [
            {s: z[s][c.rows.tolist().index(r)] for s, c in columns.items() if r in c.rows.tolist()}
            for r in range(batch.size)
        ]
        rows = [{s: unit(x) for s, x in row.items()} for row in rows if row]
        self.views = list(z)
        enough = len(rows) > 1 and any(len(row) > 1 for row in rows)
        return {self.loss: getattr(self, self.loss)(rows) if enough else self.zero}

    def with_a_pair(self, rows):
        """A row with one view is a negative of the others and has no term of its own."""
        return [(i, row) for i, row in enumerate(rows) if len(row) > 1]

    def s(self, a, b):
        return torch.exp(a @ b / self.temperature)

    def mv_dhel(self, rows):
        """Alignment of all views of a row, over uniformity within each view."""
        total = 0
        for i, row in self.with_a_pair(rows):
            alignment = sum(self.s(a, b) for a, b in itertools.combinations(row.values(), 2))
            total = total - torch.log(alignment)
            for view, z in row.items():
                others = [o[view] for j, o in enumerate(rows) if j != i and view in o]
                if others:
                    total = total + torch.log(sum(self.s(z, other) for other in others))
        return total / len(self.with_a_pair(rows))

    def mv_info_nce(self, rows):
        """All pairs of different views of a row, over all pairs with a view of it."""
        total = 0
        for i, row in self.with_a_pair(rows):
            pairs = sum(self.s(a, b) for a, b in itertools.permutations(row.values(), 2))
            against = sum(self.against(rows, i, view) for view in row)
            total = total - torch.log(pairs / against)
        return total / len(self.with_a_pair(rows))

    def against(self, rows, i, view):
        """The sum over all vectors but the one of row i and view."""
        return sum(
            self.s(rows[i][view], other)
            for j, row in enumerate(rows)
            for name, other in row.items()
            if (j, name) != (i, view)
        )

    def multi_positive(self, rows):
        """NT-Xent, in which all other views of a row are positives in turn."""
        terms = []
        for i, row in self.with_a_pair(rows):
            for view, z in row.items():
                positives = [self.s(z, other) for name, other in row.items() if name != view]
                logs = [torch.log(p / self.against(rows, i, view)) for p in positives]
                terms.append(-sum(logs) / len(logs))
        return sum(terms) / len(terms)

    def nt_xent(self, a, b):
        """Of plain products: the mean of unit vectors is none."""
        both = a + b
        total = 0
        for i, z in enumerate(both):
            others = [self.s(z, other) for j, other in enumerate(both) if j != i]
            total = total - torch.log(self.s(z, both[(i + len(a)) % len(both)]) / sum(others))
        return total / len(both)

    def pairwise(self, rows):
        """The mean over pairs of views."""
        pairs, total = list(itertools.combinations(self.views, 2)), 0
        for a, b in pairs:
            both = [row for row in rows if a in row and b in row]
            if len(both) > 1:
                total = total + self.nt_xent([row[a] for row in both], [row[b] for row in both])
        return self.zero + total / len(pairs)

    def average(self, rows):
        """Each view with the mean of the others."""
        total = 0
        for view in self.views:
            some = [row for _, row in self.with_a_pair(rows) if view in row]
            others = [[z for name, z in row.items() if name != view] for row in some]
            if len(some) > 1:
                means = [sum(z) / len(z) for z in others]
                total = total + self.nt_xent([row[view] for row in some], means)
        return self.zero + total / len(self.views)


def multi_view(**options):
    return type("MultiView", (MultiView,), options)


ONE = {"fields": ("picture",), "width": 8}
LOSSES = ("mv_dhel", "mv_info_nce", "pairwise", "average", "multi_positive")


@pytest.mark.parametrize("loss", LOSSES)
def test_two_steps(loss):
    golden("mv_dhel", multi_view(loss=loss), views=("strong",) * 4, loss=loss, **ONE)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
def test_two_steps_of_fields(loss, fields):
    reference = multi_view(loss=loss, temperature=0.2)
    options = {"loss": loss, "temperature": 0.2}
    golden("mv_dhel", reference, views=("weak",), fields=fields, width=8, **options)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(loss, rows):
    options = {"rows": rows, "width": 8, "loss": loss}
    golden("mv_dhel", multi_view(loss=loss), views=("weak",), **options)
    golden("mv_dhel", multi_view(loss=loss), views=("strong",) * 4, fields=("picture",), **options)


def test_other_numbers_of_views():
    golden("mv_dhel", MultiView, views=("strong",) * 2, also={"views": 2}, **ONE)
    fields = ("picture", "words")
    golden("mv_dhel", MultiView, views=("strong",) * 2, also={"views": 2}, fields=fields, width=8)


class WithLastNorm(MultiView):
    """The authors' projector ends with a BatchNorm; this one has no scale."""

    def losses(self, batch):
        columns = self.encoder(batch).columns
        self.zero = 0 * sum(c.values.sum() for c in columns.values())
        w, z = self.w, {}
        for s, c in columns.items():
            x = batch_norm(w, "heads.picture.1", c.values @ w["heads.picture.0.weight"].T).relu()
            x = x @ w["heads.picture.3.weight"].T
            mean, var = x.mean(0), x.var(0, unbiased=False)
            z[s] = (x - mean) / (var + 1e-5).sqrt()
            with torch.no_grad():
                for name, value in (("mean", mean), ("var", var * len(x) / (len(x) - 1))):
                    key = f"heads.picture.4.running_{name}"
                    w[key] = 0.9 * w[key] + 0.1 * value
                key = "heads.picture.4.num_batches_tracked"
                w[key] = w[key] + 1
        rows = [
            {s: unit(z[s])[c.rows.tolist().index(r)] for s, c in columns.items()}
            for r in range(batch.size)
            if r in next(iter(columns.values())).rows.tolist()
        ]
        self.views = list(z)
        return {self.loss: self.mv_dhel(rows)}


def test_two_steps_with_a_norm_at_the_end():
    views = ("strong",) * 4
    golden("mv_dhel", WithLastNorm, views=views, fields=("picture",), width=8, last_norm=True)


def test_defaults():
    """0.5: authors' configuration for CIFAR."""
    assert defaults("mv_dhel") == {
        "loss": "mv_dhel",
        "views": 0,
        "temperature": 0.5,
        "width": 128,
        "last_norm": False,
    }
