"""NNCLR, Dwibedi et al. 2021, arXiv:2104.14548: equations 2 to 4, algorithm 1, sections 3.2 and 4.1."""

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.methods.contract import Clock
from tests.golden.harness import STEPS, Reference, batch_norm, defaults, golden, projector, unit
from tests.methods.bench import batch, exact, method


class NNCLR(Reference):
    temperature, queue = 0.1, 7

    def __init__(self, page):
        super().__init__(page)
        self.fields = sorted({n.split(".")[1] for n in self.w if n.startswith("heads.")})

    def check_start(self):
        """Section 3.2: the support set begins as random vectors, and it is on the sphere."""
        sets = [v for n, v in self.w.items() if n.startswith("queues.queue_")]
        assert len(sets) == len(self.fields) and self.min_batch_size == 2
        for z in sets:
            assert len(z) == self.queue
            torch.testing.assert_close((z**2).sum(1), torch.ones_like(z[:, 0]))
            assert z[:, 0].unique().numel() == self.queue

    def project(self, field, x):
        """Section 4.1: three layers, each with BatchNorm, and ReLU behind all but the last."""
        return batch_norm(self.w, f"heads.{field}.1", projector(self.w, f"heads.{field}.0", x))

    def losses(self, batch):
        columns, terms = self.encoder(batch).columns, {}
        self.new = {}
        for f in self.fields:
            z1, z2 = (self.project(f, columns[f"{f}:{v}"].values) for v in (1, 2))
            p1, p2 = (projector(self.w, f"predictors.{f}", z) for z in (z1, z2))
            near1, near2 = (self.nearest(f, z) for z in (z1, z2))
            self.new[f] = unit(z1.detach())
            loss = self.loss(near1, p2) / 2 + self.loss(near2, p1) / 2
            terms[f"nnclr/{f}"] = loss / len(self.fields)
        return terms

    def nearest(self, field, z):
        """Equation 3: by squared distance of unit vectors."""
        support = self.w[f"queues.queue_{field}"]
        picked = []
        for row in unit(z.detach()):
            distances = [float(((row - other) ** 2).sum()) for other in support]
            picked.append(support[distances.index(min(distances))])
        return torch.stack(picked)

    def loss(self, near, p):
        """Equation 4 with predictions, and its symmetric form; the mean of both."""
        logits = unit(near) @ unit(p).T / self.temperature
        total, n = 0, len(p)
        for i in range(n):
            positive = torch.exp(logits[i, i])
            total = total - torch.log(positive / sum(torch.exp(logits[i, k]) for k in range(n)))
            total = total - torch.log(positive / sum(torch.exp(logits[k, i]) for k in range(n)))
        return total / (2 * n)

    def after_step(self, step, steps):
        """Section 3.2: the batch's vectors of one view go in at the end, the oldest go out."""
        for i, f in enumerate(self.fields):
            name = f"queues.queue_{f}"
            self.w[name] = torch.cat([self.w[name], self.new[f]])[-self.queue :]
            self.w["queues.count"][i] += len(self.new[f])


SMALL = {"width": 6, "hidden": 9, "predictor_hidden": 8}


@pytest.mark.parametrize(
    "options",
    [
        {"queue": 7},
        {"queue": 3},  # smaller than a batch
        {"queue": 11, "temperature": 0.4},
    ],
)
def test_two_steps(options):
    reference = type("NNCLR", (NNCLR,), dict(options))
    golden("nnclr", reference, views=("strong", "strong"), **(SMALL | options))


def test_the_support_set_moves_once_a_step():
    page = exact(method("nnclr", sources=("picture",), queue=20, **SMALL)).eval()
    before = page.queues.earlier("picture").clone()
    features = page.features(exact(batch(page.views, sources=("picture",))))
    one, other = page.losses(features), page.losses(features)
    assert one == other and torch.equal(page.queues.earlier("picture"), before)
    for step in (1, 2):  # without a batch between, the second has nothing to add
        page.on_step_end(Clock(step, STEPS))
        assert torch.equal(page.queues.earlier("picture")[:14], before[6:])


def test_a_row_without_another_has_no_loss_and_still_a_graph():
    page = exact(method("nnclr", sources=("picture",), queue=5, **SMALL))
    rows = exact(batch(page.views, size=2, sources=("picture",)))
    loss = page.losses(page.features(rows))["nnclr/picture"]
    assert len(rows["picture:1"]) == 1 and loss == 0 and loss.requires_grad


def test_defaults():
    """Sections 3.2 and 4.1."""
    assert defaults("nnclr") == {
        "temperature": 0.1,
        "queue": 98304,
        "width": 256,
        "hidden": 2048,
        "predictor_hidden": 4096,
    }


def test_heads():
    page = method("nnclr", sources=("picture",), queue=5, **SMALL)
    parameters = {n: tuple(p.shape) for n, p in page.heads["picture"].named_parameters()}
    assert [s for s in parameters.values() if len(s) == 2] == [
        (9, page.encoder.width),
        (9, 9),
        (6, 9),
    ]
    matrices = [tuple(p.shape) for p in page.predictors["picture"].parameters() if p.dim() == 2]
    assert matrices == [(8, 6), (6, 8)]


def test_recipe():
    recipe = methods.paper_recipe("nnclr")
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("lars", 0.9, 1e-6)
    assert (recipe.lr, recipe.lr_scaling) == (0.3, "linear/256")
    assert (recipe.batch_size, recipe.epochs, recipe.clip) == (4096, 1000, 0.0)
    assert (recipe.schedule, recipe.warmup_epochs) == ("cosine", 10)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"queue": 0}, "queue must be at least 1, not 0"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"hidden": 0}, "hidden must be at least 1, not 0"),
        ({"predictor_hidden": 0}, "predictor_hidden must be at least 1, not 0"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0"),
    ],
)
def test_what_cannot_be_is_refused(wrong, words):
    with pytest.raises(AmodalError, match=words):
        method("nnclr", sources=("picture",), **({"queue": 5} | wrong))
