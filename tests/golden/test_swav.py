"""SwAV, Caron et al. 2020, arXiv:2006.09882: equations 1 to 6, algorithm of appendix A, table 5."""

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.methods.contract import Clock
from tests.golden.harness import STEPS, Reference, defaults, golden, projector, unit
from tests.methods.bench import batch, exact, method

LARGE = 2


class SwAV(Reference):
    temperature, epsilon, iterations = 0.1, 0.05, 3
    queue, queue_start, freeze = 0, 0.0, 0.0

    def __init__(self, page):
        super().__init__(page)
        self.fields = sorted({n.split(".")[1] for n in self.w if n.startswith("prototypes.")})
        # what earlier steps put into the queues, in lists: (step, vectors)
        self.earlier = {(f, v): torch.zeros(0) for f in self.fields for v in range(LARGE)}
        self.pushed = dict.fromkeys(self.earlier, 0)
        self.step = 0

    def check_start(self):
        """Prototypes begin on the sphere, queues empty; the head has two layers."""
        assert self.min_batch_size == 2
        for f in self.fields:
            assert self.w[f"prototypes.{f}"].shape == (SMALL["prototypes"], SMALL["width"])
            first = (SMALL["hidden"], self.encoder.width)
            assert self.w[f"heads.{f}.0.weight"].shape == first
            assert self.w[f"heads.{f}.3.weight"].shape == (SMALL["width"], SMALL["hidden"])
            assert f"heads.{f}.6.weight" not in self.w
        for name, value in self.w.items():
            if name.startswith("prototypes."):
                torch.testing.assert_close((value**2).sum(1), torch.ones_like(value[:, 0]))
            elif name.startswith("queues."):
                assert not value.any(), name

    def losses(self, batch):
        columns, terms = self.encoder(batch).columns, {}
        self.new = {}
        for f in self.fields:
            views = [s for s in columns if s.partition(":")[0] == f]
            n = len(columns[views[0]].values)
            # the head sees all crops at once, as in the authors' program
            z = unit(projector(self.w, f"heads.{f}", torch.cat([columns[v].values for v in views])))
            prototypes = self.w[f"prototypes.{f}"]
            if self.step / STEPS < self.freeze:
                prototypes = prototypes.detach()
            crops = [z[i * n : (i + 1) * n] for i in range(len(views))]
            codes = []
            for v in range(LARGE):
                self.new[f, v] = crops[v].detach()
                codes.append(self.codes(f, v, crops[v].detach(), prototypes.detach()))
            total = 0
            for v in range(LARGE):
                for u in range(len(views)):
                    if u != v:
                        log_p = torch.log_softmax(crops[u] @ prototypes.T / self.temperature, 1)
                        total = total - (codes[v] * log_p).sum(1).mean()
            terms[f"swav/{f}"] = total / (LARGE * (len(views) - 1)) / len(self.fields)
        return terms

    def codes(self, field, view, z, prototypes):
        """Equations 3 to 5: rows of the queue only help to balance."""
        if self.queue and self.pushed[field, view] >= self.queue:
            z = torch.cat([self.earlier[field, view], z])
        n = len(self.new[field, view])
        q = torch.exp(z @ prototypes.T / self.epsilon)
        q = q / q.sum()
        for _ in range(self.iterations):
            q = q / q.sum(0, keepdim=True) / q.shape[1]
            q = q / q.sum(1, keepdim=True) / q.shape[0]
        return (q * q.shape[0])[len(q) - n :]

    def after_step(self, step, steps):
        with torch.no_grad():
            for f in self.fields:
                self.w[f"prototypes.{f}"].copy_(unit(self.w[f"prototypes.{f}"]))
        if self.queue and self.step / steps >= self.queue_start:
            for key, new in self.new.items():
                self.pushed[key] += len(new)
                old = self.earlier[key].to(new).reshape(-1, new.shape[1])
                self.earlier[key] = torch.cat([old, new])[-self.queue :]
        self.step = step

    def state(self):
        state = super().state()
        state["progress"] = torch.tensor(self.step / STEPS, dtype=torch.float64)
        if self.queue:
            for i, ((f, v), rows) in enumerate(self.earlier.items()):
                name = f"queues.queue_{f}:{v + 1}"
                empty = torch.zeros_like(state[name])[len(rows) :]
                state[name] = torch.cat([empty, rows.to(empty).reshape(-1, empty.shape[1])])
                state["queues.count"][i] = self.pushed[f, v]
        return state


SMALL = {"width": 6, "hidden": 9, "prototypes": 5}


def hold(local_views=1, fields=("picture", "signal"), **options):
    known = {
        n: options.get(n, getattr(SwAV, n)) for n in vars(SwAV) if not callable(getattr(SwAV, n))
    }
    reference = type("SwAV", (SwAV,), {n: v for n, v in known.items() if not n.startswith("_")})
    golden(
        "swav",
        reference,
        views=("strong", "strong", *["local"] * local_views),
        fields=fields,
        local_views=local_views,
        **(SMALL | {"freeze": 0.0, "queue": 0, "queue_start": 0.0} | options),
    )


def test_two_steps():
    hold()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.3, "epsilon": 0.1, "iterations": 1},
        {"local_views": 0, "fields": ("picture",)},
        {"queue": 3},  # full after one step
        {"queue": 7},  # not full after one step of four or five rows: not used in the second
        {"queue": 3, "queue_start": 0.25},  # filled by the second step alone
        {"freeze": 0.25},  # frozen in the first step, not in the second
        {"freeze": 0.5},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


def test_frozen_prototypes_stay_where_they_are():
    page = method("swav", sources=("picture",), local_views=0, freeze=0.5, queue=0, **SMALL)
    rows = batch(page.views, sources=("picture",))
    sum(page.losses(page.features(rows)).values()).backward()
    assert page.prototypes["picture"].grad is None
    page.on_step_end(Clock(2, STEPS))
    sum(page.losses(page.features(rows)).values()).backward()
    assert page.prototypes["picture"].grad.any()


def test_losses_may_be_computed_twice_before_a_step_ends():
    page = exact(method("swav", sources=("picture",), local_views=0, queue=20, **SMALL)).eval()
    features = page.features(exact(batch(page.views, sources=("picture",))))
    one, other = page.losses(features), page.losses(features)
    assert one == other and not page.queues.count.any()
    page.on_step_end(Clock(1, STEPS))
    assert page.queues.count.tolist() == [6, 6]
    page.on_step_end(Clock(2, STEPS))
    assert page.queues.count.tolist() == [6, 6], "pushed a second time without a batch"


def test_defaults():
    """Table 5 and section 4 of the paper, and the arguments of the authors' program."""
    assert defaults("swav") == {
        "prototypes": 3000,
        "local_views": 6,
        "width": 128,
        "hidden": 2048,
        "temperature": 0.1,
        "epsilon": 0.05,
        "iterations": 3,
        "queue": 0,
        "queue_start": 0.075,
        "freeze": 0.00125,
    }


def test_recipe():
    recipe = methods.paper_recipe("swav")
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("lars", 0.9, 1e-6)
    assert recipe.scaled(recipe.lr, recipe.batch_size) == pytest.approx(4.8)
    assert (recipe.batch_size, recipe.epochs, recipe.clip) == (4096, 800, 0.0)
    assert (recipe.schedule, recipe.warmup_epochs) == ("cosine", 10)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"prototypes": 1}, "prototypes must be at least 2, not 1"),
        ({"local_views": -1}, "local_views must be at least 0, not -1"),
        ({"queue": -1}, "queue must be at least 0, not -1"),
        ({"iterations": 0}, "iterations must be at least 1, not 0"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"hidden": 0}, "hidden must be at least 1, not 0"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0"),
        ({"epsilon": -1.0}, "epsilon must be above 0, not -1"),
        ({"freeze": 1.5}, "freeze must be a share of the steps, from 0 to 1, not 1.5"),
        ({"queue_start": -0.5}, "queue_start must be a share of the steps, from 0 to 1, not -0.5"),
    ],
)
def test_what_cannot_be_is_refused(wrong, words):
    with pytest.raises(AmodalError, match=words):
        method("swav", sources=("picture",), **wrong)
