"""LeJEPA, Balestriero & LeCun 2025, arXiv:2511.08544: algorithms 1 and 2, equations of section 5."""

import math

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.masking.hashing import normal
from tests.golden.harness import Reference, defaults, golden, projector
from tests.methods.bench import batch, exact, method

GLOBAL = 2
VIEWS = ("global", "global", "local_solarized")
SMALL = {"local_views": 1, "width": 4, "hidden": 6, "slices": 5}


class LeJEPA(Reference):
    sigreg, slices, limit, points = 0.05, 5, 5.0, 17

    def __init__(self, page):
        super().__init__(page)
        self.fields = sorted({n.split(".")[1] for n in self.w if n.startswith("heads.")})

    def check_start(self):
        """Slices of the first step are those of number 0."""
        assert self.w["step"] == 0 and self.w["step"].dtype == torch.int64

    def losses(self, batch):
        columns, terms = self.encoder(batch).columns, {}
        for f in self.fields:
            views = [s for s in columns if s.partition(":")[0] == f]
            n = len(columns[views[0]].values)
            # one pass of the head over all views, as in the authors' program
            z = projector(self.w, f"heads.{f}", torch.cat([columns[v].values for v in views]))
            z = [z[i * n : (i + 1) * n] for i in range(len(views))]
            predicted, gaussian = self.loss(z) if n else (0 * z[0].sum(),) * 2
            terms[f"predict/{f}"] = (1 - self.sigreg) * predicted / len(self.fields)
            terms[f"sigreg/{f}"] = self.sigreg * gaussian / len(self.fields)
        return terms

    def loss(self, views):
        """Algorithm 2: all views predict the mean of the global ones; each view is Gaussian."""
        center = sum(views[:GLOBAL]) / GLOBAL
        predicted = sum(((center - z) ** 2).mean() for z in views) / len(views)
        return predicted, sum(self.sliced(z) for z in views) / len(views)

    def sliced(self, z):
        """Algorithm 1: the mean over slices, which are those of the step for all views."""
        a = [
            normal(self.w["step"], m, torch.arange(z.shape[1])).double() for m in range(self.slices)
        ]
        return sum(self.epps_pulley(z @ (v / (v * v).sum().sqrt())) for v in a) / self.slices

    def epps_pulley(self, x):
        """N times the weighted squared distance of characteristic functions, by trapezoids."""
        n = len(x)
        knots = [-self.limit + 2 * self.limit * j / (self.points - 1) for j in range(self.points)]
        heights = []
        for t in knots:
            theory = math.exp(-(t**2) / 2)
            real, imaginary = (t * x).cos().sum() / n, (t * x).sin().sum() / n
            heights.append(((real - theory) ** 2 + imaginary**2) * theory)
        step = knots[1] - knots[0]
        return n * sum(step * (a + b) / 2 for a, b in zip(heights, heights[1:]))

    def after_step(self, step, steps):
        self.w["step"] = torch.tensor(step)


def reference(**options):
    return type("LeJEPA", (LeJEPA,), options)


def test_two_steps():
    golden("lejepa", LeJEPA, views=VIEWS, **SMALL)


@pytest.mark.parametrize(
    "options",
    [
        # the knots of the authors' program: 17 from 0 to 3
        {"sigreg": 0.3, "limit": 3.0, "points": 33},
        {"sigreg": 1.0, "points": 3},
        # more slices than are computed at a time
        {"sigreg": 0.1, "slices": 70, "limit": 1.0, "points": 5},
    ],
)
def test_two_steps_with_other_options(options):
    golden("lejepa", reference(**options), views=VIEWS, fields=("picture",), **SMALL | options)


def test_without_local_views_all_views_are_global():
    golden("lejepa", LeJEPA, views=VIEWS[:2], fields=("signal",), **SMALL | {"local_views": 0})


def test_one_row_and_none():
    for rows in (1, 2):  # the first has no picture
        golden("lejepa", LeJEPA, views=VIEWS, rows=rows, **SMALL)


def test_defaults():
    """Weight, slices and knots: section 5 and algorithm 1; views: the table of the authors'
    repository; heads: their program."""
    assert defaults("lejepa") == {
        "sigreg": 0.05,
        "local_views": 6,
        "width": 512,
        "hidden": 2048,
        "layers": 3,
        "slices": 1024,
        "limit": 5.0,
        "points": 17,
    }
    page = method("lejepa", sources=("picture",), local_views=6, width=6, hidden=5, slices=3)
    shapes = [tuple(p.shape) for n, p in page.heads["picture"].named_parameters() if p.dim() == 2]
    assert shapes == [(5, page.encoder.width), (5, 5), (6, 5)]
    assert len(method("lejepa", sources=("picture",), **SMALL, layers=1).heads["picture"]) == 1
    assert page.views == ("global",) * 2 + ("local_solarized",) * 6 and page.min_batch_size == 2


def test_recipe():
    """The table of the authors' repository, and their scripts of ImageNet."""
    recipe = methods.paper_recipe("lejepa")
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("adamw", 5e-4, 0.05)
    assert (recipe.betas, recipe.clip, recipe.drop_path) == ((0.9, 0.999), 0.0, 0.1)
    assert (recipe.schedule, recipe.warmup_epochs, recipe.precision) == ("cosine", 1, "bf16")
    assert (recipe.lr_scaling, recipe.batch_size, recipe.epochs) == ("none", 512, 100)


def test_gaussian_views_that_agree_cost_little_and_collapsed_ones_much():
    page = exact(method("lejepa", sources=("picture",), **SMALL | {"width": 64}))
    page.heads["picture"] = torch.nn.Identity()
    rows = exact(batch(page.views, size=80, sources=("picture",), patchy=False))
    z = page.features(rows)
    same = torch.randn(80, page.encoder.width, generator=torch.Generator().manual_seed(0)).double()
    for value, least, most in ((same, 0.0, 0.1), (0 * same, 1.0, 10.0)):
        for column in z.columns.values():
            column.values.data.copy_(value)
        terms = page.losses(z)
        assert terms["predict/picture"] == 0
        assert least < terms["sigreg/picture"] < most


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"sigreg": 1.5}, "sigreg is a weight from 0 to 1, not 1.5"),
        ({"sigreg": -0.1}, "sigreg is a weight from 0 to 1, not -0.1"),
        ({"points": 16}, "points must be odd and at least 3, not 16"),
        ({"points": 1}, "points must be odd and at least 3, not 1"),
        ({"limit": 0.0}, "limit must be above 0, not 0"),
        ({"slices": 0}, "slices must be at least 1, not 0"),
        ({"local_views": -1}, "local_views must be at least 0, not -1"),
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"hidden": 0}, "hidden must be at least 1, not 0"),
    ],
)
def test_options_out_of_range(wrong, message):
    with pytest.raises(AmodalError, match=message):
        method("lejepa", sources=("picture",), **SMALL | wrong)
