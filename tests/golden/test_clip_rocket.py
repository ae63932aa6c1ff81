"""CLIPRocket, Fini et al. 2023, arXiv:2305.08675: section 3 (CLIP and the added losses) and 4.

Numbers that the paper leaves to its appendix are those of the authors' programs.
"""

import itertools

import pytest
import torch

from amodal.methods.contrastive.clip_rocket import PAPER_RECIPE
from tests.golden.harness import Reference, batch_norm, common, defaults, golden, projector, unit


def smoothed_cross_entropy(logits, smoothing):
    """Row i's class is i; a share of its weight is spread over all classes."""
    n, total = len(logits), 0
    for i in range(n):
        for j in range(n):
            weight = smoothing / n + (1 - smoothing if i == j else 0)
            total = total - weight * (logits[i, j] - logits[i].logsumexp(0))
    return total / n


class ClipRocket(Reference):
    add, views, smoothing, momentum, doubled = "none", 2, 0.1, 0.99, 1
    temperature, local_temperature, limit = 0.07, 0.1, 100.0

    def __init__(self, page):
        super().__init__(page)
        self.fields = list(self.encoder.fields)
        self.teacher = self.add_network("ema_encoder") if self.add == "byolip" else None

    def check_start(self):
        starts = [self.temperature] + [self.local_temperature] * (self.views > 0)
        for i, temperature in enumerate(starts):
            begin = self.w[f"scales.{i}.log"].detach().exp()
            assert torch.isclose(begin, torch.tensor(1 / temperature).double(), rtol=1e-6)
        heads = {n.split(".")[0] for n in self.w if n.endswith(".weight")}
        wanted = {"local"} if self.views else set()
        wanted |= {"barlip": {"added"}, "siamlip": {"added", "predictors"}}.get(self.add, set())
        if self.add == "byolip":
            wanted = {"local", "added", "predictors", "ema_added"}
        assert heads == wanted
        assert len([n for n in self.w if n.startswith("scales.")]) == len(starts)
        assert self.min_batch_size == 2
        assert self.networks["encoder"].space_width == 8
        for f in self.fields if self.views else ():
            layers = [self.w[f"local.{f}.{i}.weight"].shape for i in (0, 3, 6)]
            assert layers == [(10, 64), (10, 10), (8, 10)]  # three layers
        if self.add in ("siamlip", "byolip"):
            shapes = [self.w[f"{p}.picture.{i}.weight"].shape for p in ("added",) for i in (0, 3)]
            assert shapes == [(9, 64), (6, 9)]
            shapes = [self.w[f"predictors.picture.{i}.weight"].shape for i in (0, 3)]
            assert shapes == [(9, 6), (6, 9)]
        if self.add == "barlip":
            shapes = [self.w[f"added.picture.{i}.weight"].shape for i in (0, 3, 6)]
            assert shapes == [(9, 64), (9, 9), (6, 9)]
        if self.teacher is not None:  # it begins as the student
            for key, value in self.teacher.state_dict().items():
                assert torch.equal(value, self.encoder.state_dict()[key]), key
            for key in [k for k in self.w if k.startswith("ema_added.")]:
                assert torch.equal(self.w[key], self.w[key.removeprefix("ema_")]), key

    def scale(self, i):
        log = self.w[f"scales.{i}.log"]
        if log.detach().exp() > self.limit:
            return self.limit * (log - log.detach()).exp()
        return log.exp()

    def source(self, field, view):
        return f"{field}:{view + 1}" if self.views else field

    def heads(self, name, features):
        """A head on each view alone: source -> column of what it makes."""
        made = {}
        for f in self.fields:
            for v in range(self.views + 1):
                if name == "local" and v == 0:
                    continue
                column = features[self.source(f, v)]
                if name != "local" and self.add in ("siamlip", "byolip"):
                    x = self.two_layers(f"{name}.{f}", column.values)
                else:
                    x = projector(self.w, f"{name}.{f}", column.values)
                made[self.source(f, v)] = type(column)(x, column.rows)
        return made

    def two_layers(self, name, x):
        """Of SiamLIP and ByoLIP: the second norm has no weights."""
        x = batch_norm(self.w, f"{name}.1", x @ self.w[f"{name}.0.weight"].T).relu()
        return self.norm_without_weights(f"{name}.4", x @ self.w[f"{name}.3.weight"].T)

    def norm_without_weights(self, name, x):
        n, mean, var = len(x), x.mean(0), x.var(0, unbiased=False)
        with torch.no_grad():
            w = self.w
            w[f"{name}.running_mean"] = 0.9 * w[f"{name}.running_mean"] + 0.1 * mean
            w[f"{name}.running_var"] = 0.9 * w[f"{name}.running_var"] + 0.1 * var * n / (n - 1)
            w[f"{name}.num_batches_tracked"] = w[f"{name}.num_batches_tracked"] + 1
        return (x - mean) / (var + 1e-5).sqrt()

    def losses(self, batch):
        features = self.encoder.features(batch).columns
        z = self.encoder(batch).columns
        h = self.heads("local", features) if self.views else {}
        v = self.heads("added", features) if self.add not in ("none", "swalip") else {}
        terms, pairs = {}, list(itertools.combinations(self.fields, 2))
        for a, b in pairs:
            share = self.doubled / (1 + self.views) / len(pairs)
            x, y = common(z, self.source(a, 0), self.source(b, 0))
            logits = unit(x) @ unit(y).T * self.scale(0)
            terms[f"global/{a}~{b}"] = share * self.both(logits, 0.0)
            if not self.views:
                continue
            smoothing = 0.0 if self.add == "swalip" else self.smoothing
            total = 0
            for x, y in self.local_pairs(h, a, b):
                total = total + self.both(unit(x) @ unit(y).T * self.scale(1), smoothing)
            mean = total / self.views**2
            terms[f"local/{a}~{b}"] = share * self.views * mean
            if self.add != "none":
                added = getattr(self, self.add)(features, h, v, a, b, batch)
                terms[f"{self.add}/{a}~{b}"] = added / len(pairs)
        return terms

    def both(self, logits, smoothing):
        one = smoothed_cross_entropy(logits, smoothing)
        return (one + smoothed_cross_entropy(logits.T, smoothing)) / 2

    def local_pairs(self, columns, a, b):
        for i in range(1, self.views + 1):
            for j in range(1, self.views + 1):
                yield common(columns, self.source(a, i), self.source(b, j))

    def matched(self, columns, a, b):
        """Weak with weak, and every strong with every strong one."""
        yield common(columns, self.source(a, 0), self.source(b, 0))
        yield from self.local_pairs(columns, a, b)

    def barlip(self, features, h, v, a, b, batch):
        losses = []
        for x, y in self.matched(v, a, b):
            x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
            y = (y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-5).sqrt()
            correlation, total = x.T @ y / len(x), 0
            for i in range(len(correlation)):
                for j in range(len(correlation)):
                    c = correlation[i, j]
                    total = total + ((c - 1) ** 2 if i == j else 0.005 * c**2)
            losses.append(0.025 * total)
        return sum(losses) / len(losses)

    def siamlip(self, features, h, v, a, b, batch, targets=None):
        predicted = {}
        for s, column in v.items():
            if s not in self.predicted_of(batch):
                f = s.partition(":")[0]
                self.predicted[s] = projector(self.w, f"predictors.{f}", column.values)
            predicted[s] = type(column)(self.predicted[s], column.rows)
        targets = v if targets is None else targets
        losses = []
        for one, other in ((a, b), (b, a)):
            both = {f"p/{s}": c for s, c in predicted.items()} | dict(targets)
            tracks = [(0, 0)]
            tracks += itertools.product(range(1, self.views + 1), repeat=2)
            for i, j in tracks:
                p, t = common(both, f"p/{self.source(one, i)}", self.source(other, j))
                losses.append(2 - 2 * (unit(p) * unit(t.detach())).sum(1).mean())
        return sum(losses) / len(losses)

    def predicted_of(self, batch):
        """What is predicted from each view of a batch, made once."""
        if getattr(self, "predicted_from", None) is not batch:
            self.predicted_from, self.predicted = batch, {}
        return self.predicted

    def byolip(self, features, h, v, a, b, batch):
        if getattr(self, "aimed_from", None) is not batch:
            with torch.no_grad():
                aimed = self.heads("ema_added", self.teacher.features(batch).columns)
            self.aimed_from, self.aimed = batch, aimed
        return self.siamlip(features, h, v, a, b, batch, targets=self.aimed)

    def swalip(self, features, h, v, a, b, batch):
        """Each pair of views learns the soft targets of the pair of the other two."""
        total = 0
        for i, j in itertools.product((1, 2), repeat=2):
            x, y = (unit(t) for t in common(h, self.source(a, i), self.source(b, j)))
            u, w = (unit(t) for t in common(h, self.source(a, 3 - i), self.source(b, 3 - j)))
            sought = u.detach() @ w.detach().T
            for logits, targets in (
                (x @ y.T, self.balanced(sought)),
                ((x @ y.T).T, self.balanced(sought.T)),
            ):
                log_p = (logits * self.scale(1)).log_softmax(1)
                total = total - (targets * log_p).sum(1).mean() / 2
        return 0.2 * total / 4

    def balanced(self, similarity):
        q = (similarity / 0.05).exp()
        q = q / q.sum()
        for _ in range(3):
            q = q / q.sum(0, keepdim=True) / q.shape[1]
            q = q / q.sum(1, keepdim=True) / q.shape[0]
        return q * q.shape[0]

    def after_step(self, step, steps):
        if self.teacher is None:
            return
        m, student = self.momentum, dict(self.encoder.named_parameters())
        with torch.no_grad():
            for name, value in self.teacher.named_parameters():
                value.copy_(m * value + (1 - m) * student[name])
            for name in [n for n in self.w if n.startswith("ema_added.")]:
                # statistics are the copy's own
                if name.endswith((".weight", ".bias")):
                    new = self.w[name.removeprefix("ema_")]
                    self.w[name].copy_(m * self.w[name] + (1 - m) * new)


SMALL = {"width": 8, "hidden": 10, "added_width": 6, "added_hidden": 9}


def hold(views=2, fields=("picture", "words"), reference=None, **options):
    known = {k: v for k, v in options.items() if k != "reduction"}
    known |= {"views": views, "doubled": 2 if options.get("reduction") == "sum" else 1}
    known |= {"limit": options.get("max_scale", 100.0)}
    golden(
        "clip_rocket",
        type("ClipRocket", (ClipRocket,), known | (reference or {})),
        views=("weak", *["strong"] * views),
        fields=fields,
        local_views=views,
        **(SMALL | {"add": "none"} | options),
    )


@pytest.mark.parametrize("add", ["none", "barlip", "siamlip", "byolip", "swalip"])
def test_two_steps(add):
    hold(add=add)


def test_two_steps_with_targets_in_factors(monkeypatch):
    """As for batches too large to hold all targets."""
    monkeypatch.setattr("amodal.objectives.swalip.MAX_DENSE_ENTRIES", 0)
    hold(add="swalip")


@pytest.mark.parametrize("add", ["none", "siamlip", "byolip"])
def test_two_steps_with_three_fields(add):
    hold(add=add, fields=("picture", "words", "facts"))


@pytest.mark.parametrize("views", [0, 1, 3])
def test_two_steps_with_another_number_of_strong_views(views):
    hold(views=views, temperature=0.2)


@pytest.mark.parametrize(
    "options",
    [
        {"smoothing": 0.3, "temperature": 0.2, "local_temperature": 0.4, "reduction": "sum"},
        {"add": "byolip", "momentum": 0.5, "reduction": "sum"},
        {"add": "swalip", "local_temperature": 0.3, "reduction": "sum"},
        {"max_scale": 5.0},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


def test_defaults():
    """Those of the authors' programs for CLIPRocket."""
    assert defaults("clip_rocket") == {
        "add": "none",
        "local_views": 2,
        "smoothing": 0.1,
        "width": 256,
        "hidden": 4096,
        "temperature": 0.07,
        "local_temperature": 0.1,
        "max_scale": 100.0,
        "reduction": "mean",
        "added_width": 128,
        "added_hidden": 2048,
        "momentum": 0.99,
    }


def test_recipe():
    """That of CC12M and YFCC: 32 processes of 128 rows, AdamW, one epoch of warm-up."""
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.betas, r.weight_decay, r.clip) == (
        "adamw",
        3e-3,
        (0.9, 0.98),
        0.1,
        0.0,
    )
    assert (r.batch_size, r.epochs, r.warmup_epochs, r.schedule) == (4096, 32.0, 1.0, "cosine")
