"""VICReg, Bardes et al. 2022, arXiv:2105.04906: equations 1 to 6, algorithm 1, section 4.2."""

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from tests.golden.harness import Reference, defaults, golden, pairs_of_views, projector
from tests.methods.bench import batch, exact, method


class VICReg(Reference):
    invariance, variance, covariance = 25.0, 25.0, 1.0

    def losses(self, batch):
        columns = self.encoder(batch).columns
        z = {s: projector(self.w, f"heads.{s[:-2]}", c.values) for s, c in columns.items()}
        pairs = pairs_of_views(list(z))
        return {f"vicreg/{a}~{b}": self.loss(z[a], z[b]) / len(pairs) for a, b in pairs}

    def loss(self, x, y):
        """Algorithm 1, with the authors' means over dimensions and views."""
        n, d = x.shape
        similarity = sum(((x[i] - y[i]) ** 2).sum() for i in range(n)) / (n * d)
        spread, repeated = 0, 0
        for z in (x, y):
            centred = z - z.mean(0)
            # equation 1, gamma = 1, epsilon = 1e-4; the variance is unbiased
            deviation = ((centred**2).sum(0) / (n - 1) + 1e-4).sqrt()
            spread = spread + torch.clamp(1 - deviation, min=0).sum() / d / 2
            for i in range(d):  # equations 3 and 4
                for j in range(d):
                    if i != j:
                        repeated = repeated + ((centred[:, i] @ centred[:, j]) / (n - 1)) ** 2 / d
        return self.invariance * similarity + self.variance * spread + self.covariance * repeated


@pytest.mark.parametrize("width, hidden, layers", [(5, 7, 3), (9, 4, 2)])
def test_two_steps(width, hidden, layers):
    """Rows outnumber dimensions or not: covariances are computed in another way then."""
    golden(
        "vicreg",
        VICReg,
        views=("strong", "strong"),
        width=width,
        hidden=hidden,
        layers=layers,
    )


def test_two_steps_with_other_weights():
    weights = {"invariance": 3.0, "variance": 5.0, "covariance": 0.5}
    reference = type("VICReg", (VICReg,), dict(weights))
    golden("vicreg", reference, views=("strong", "strong"), width=5, hidden=5, **weights)


def test_defaults():
    """Weights and layers: section 4.2; widths are a quarter of the paper's, as the page says."""
    assert defaults("vicreg") == {
        "width": 2048,
        "hidden": 2048,
        "layers": 3,
        "invariance": 25.0,
        "variance": 25.0,
        "covariance": 1.0,
    }
    page = method("vicreg", sources=("picture",), width=6, hidden=5)
    shapes = [tuple(p.shape) for n, p in page.heads["picture"].named_parameters() if p.dim() == 2]
    assert shapes == [(5, page.encoder.width), (5, 5), (6, 5)]


def test_recipe():
    """Section 4.2 and the authors' program."""
    recipe = methods.paper_recipe("vicreg")
    assert (recipe.optimizer, recipe.lr, recipe.lr_scaling) == ("lars", 0.2, "linear/256")
    assert (recipe.weight_decay, recipe.momentum, recipe.clip) == (1e-6, 0.9, 0.0)
    assert (recipe.schedule, recipe.warmup_epochs) == ("cosine", 10)
    assert (recipe.batch_size, recipe.epochs) == (2048, 1000)
    assert recipe.views == {"image": ("blurred", "solarized")}


def test_a_field_in_one_row_has_only_its_invariance_and_none_is_zero():
    page = exact(method("vicreg", sources=("picture",), width=5, hidden=5)).eval()
    z = page.project(page.features(exact(batch(page.views, size=2, sources=("picture",)))))
    one, two = z.pair("picture:1", "picture:2")
    assert len(one) == 1
    expected = 25 * ((one - two) ** 2).mean()
    torch.testing.assert_close(page.objective(z)["vicreg/picture:1~picture:2"], expected)
    empty = batch(page.views, size=2, sources=("picture",), absent=("picture",))
    loss = page.losses(page.features(exact(empty)))["vicreg/picture:1~picture:2"]
    assert loss == 0 and loss.requires_grad


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"width": 0}, {"hidden": 0}])
def test_an_expander_has_layers_and_widths(wrong):
    with pytest.raises(AmodalError, match=f"{next(iter(wrong))} must be at least 1, not 0"):
        method("vicreg", sources=("picture",), **wrong)
