"""UCASR, Carvalho, Washüttl and Widmer 2023, arXiv:2309.12134, and the authors' code:
SimCLR within each modality, then a hinge between modalities after a layer of CCA (Dorfer et al.
2018)."""

import itertools

import pytest
import torch

from amodal.core import field_of
from amodal.methods.contrastive.ucasr import PAPER_RECIPE
from tests.golden.harness import Reference, batch_norm, defaults, golden, unit


def covariance(x, y):
    return (x - x.mean(0)).T @ (y - y.mean(0)) / (len(x) - 1)


def inverse_root(a):
    """Of a positive definite matrix, by the iteration of Denman and Beavers (1976)."""
    size = a.diagonal().sum()
    y, z = a / size, torch.eye(len(a)).double()
    for _ in range(40):
        y, z = (y + z.inverse()) / 2, (z + y.inverse()) / 2
    return z / size.sqrt()


def whitening(cov, ridge):
    """The inverse of Cholesky's factor; the ridge is a share of the mean variance."""
    n = len(cov)
    root = torch.linalg.cholesky(cov + ridge * cov.diagonal().sum() / n * torch.eye(n).double())
    return root.inverse().T


class Ucasr(Reference):
    """Several fields: each but the first is turned into the whitened space of the first."""

    stage, width, hidden, pretrain = 0, 4, 16, 0.5
    temperature, margin, symmetric, cca, ridge, momentum = 0.5, 0.6, False, True, 1e-3, 0.9
    least = 1e-3
    """Added to squared correlations, so that directions without any have no gradient of 1 / 0."""

    def __init__(self, page):
        if len(page.stages) > 1:
            page.on_stage_start(self.stage)
        super().__init__(page)
        self.fields = list(page.encoder.fields)
        self.pairs = list(itertools.combinations(self.fields, 2))
        self.of_stage = 1 if self.pretrain == 0 else self.stage
        self.page_stages = page.stages

    def check_start(self):
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        assert self.page_stages == ((self.pretrain, 1.0) if 0 < self.pretrain < 1 else (1.0,))
        learns = {name for name in self.w if self.w[name].requires_grad}
        first, second = ({n for n in learns if n.startswith(p)} for p in ("heads.", "towers."))
        assert bool(first) == (self.of_stage == 0) and bool(second) == (self.of_stage == 1)
        assert not any(p.requires_grad for p in self.encoder.heads.parameters())
        for f in self.fields:
            assert self.w[f"heads.{f}.0.weight"].shape == (self.hidden, self.encoder.width)
            assert self.w[f"heads.{f}.3.weight"].shape == (self.width, self.hidden)
            assert self.w[f"towers.{f}.weight"].shape == (self.width, self.encoder.width)

    def losses(self, batch):
        if self.of_stage == 0:
            return {f"nt_xent/{f}": self.nt_xent(batch, f) / len(self.fields) for f in self.fields}
        return self.hinges(batch)

    def nt_xent(self, batch, field):
        """Of two views, each of which goes through the head's BatchNorm on its own."""
        views = [s for s in batch.columns if field_of(s) == field][-2:]
        x = [self.encoder.features(batch).columns[s].values for s in views]
        z = []
        for h in x:
            h = h @ self.w[f"heads.{field}.0.weight"].T
            h = batch_norm(self.w, f"heads.{field}.1", h).relu()
            z.append(
                unit(h @ self.w[f"heads.{field}.3.weight"].T + self.w[f"heads.{field}.3.bias"])
            )
        n, z = len(z[0]), torch.cat(z)
        if n < 2:
            return 0 * z.sum()
        loss = 0
        for i in range(2 * n):
            logits = z @ z[i] / self.temperature
            others = [j for j in range(2 * n) if j != i]
            loss = loss + logits[others].logsumexp(0) - logits[(i + n) % (2 * n)]
        return loss / (2 * n)

    def towers(self, columns):
        return {
            f: columns[f].values @ self.w[f"towers.{f}.weight"].T + self.w[f"towers.{f}.bias"]
            for f in self.fields
        }

    def hinges(self, batch):
        columns = self.encoder.features(batch).columns
        columns = {f: next(columns[s] for s in columns if field_of(s) == f) for f in self.fields}
        z = self.towers(columns)
        rows = {f: columns[f].rows.tolist() for f in self.fields}
        if self.cca:
            self.moments = self.measure(z, rows)
            maps = self.maps(self.moments)
            z = {
                f: (z[f] - self.moments[f][0]) @ maps[f] if f in maps else 0 * z[f]
                for f in self.fields
            }
        terms = {}
        for a, b in self.pairs:
            shared = [r for r in rows[a] if r in rows[b]]
            x, y = (unit_or_zero(z[f][[rows[f].index(r) for r in shared]]) for f in (a, b))
            loss = self.hinge(x, y)
            if self.symmetric:
                loss = loss + self.hinge(y, x)
            terms[f"hinge/{a}~{b}"] = loss / len(self.pairs)
        return terms

    def hinge(self, x, y):
        """Over all that do not belong together; a row of x chooses among those of y."""
        n, s = len(x), x @ y.T
        others = [(i, j) for i in range(n) for j in range(n) if i != j]
        if not others:
            return 0 * (x.sum() + y.sum())
        return sum((self.margin - s[i, i] + s[i, j]).clamp(min=0) for i, j in others) / len(others)

    def measure(self, z, rows):
        """Field -> mean, covariance, and covariance with the first field; of two rows or more."""
        anchor, moments = self.fields[0], {}
        for f in self.fields:
            if len(z[f]) < 2:
                continue
            shared = [r for r in rows[anchor] if r in rows[f]]
            x, y = (z[g][[rows[g].index(r) for r in shared]] for g in (anchor, f))
            cross = covariance(x, y) if len(shared) > 1 else None
            moments[f] = z[f].mean(0), covariance(z[f], z[f]), cross
        return moments

    def maps(self, moments):
        """Cosines after both maps are those of canonical directions, however they are rotated."""
        anchor, maps = self.fields[0], {}
        if anchor not in moments:
            return {}
        white = whitening(moments[anchor][1], self.ridge)
        for f, (_, cov, cross) in moments.items():
            if f == anchor:
                maps[f] = white
            elif cross is not None:
                own = whitening(cov, self.ridge)
                t = white.T @ cross @ own
                eye = torch.eye(self.width).double()
                maps[f] = own @ (t @ inverse_root(t.T @ t + self.least * eye)).T
        return maps

    @torch.no_grad()
    def after_step(self, step, steps):
        """The encoder gives what was compared, by moments of all steps so far."""
        if self.of_stage == 0:
            return
        running = {}
        if self.cca:
            for f, new in self.moments.items():
                if new[2] is None:
                    continue
                before = self.momentum if self.w[f"cca.seen/{f}"] else 0
                for name, value in zip(("mean", "cov", "cross"), new):
                    old = self.w[f"cca.{name}/{f}"]
                    self.w[f"cca.{name}/{f}"] = before * old + (1 - before) * value
                self.w[f"cca.seen/{f}"] = torch.ones(()).double()
            seen = [f for f in self.fields if self.w[f"cca.seen/{f}"]]
            running = {
                f: [self.w[f"cca.{name}/{f}"] for name in ("mean", "cov", "cross")] for f in seen
            }
        maps = self.maps(running)
        for f in self.fields:
            weight, bias = self.w[f"towers.{f}.weight"], self.w[f"towers.{f}.bias"]
            if self.cca and f not in maps:
                continue
            if self.cca:
                weight, bias = maps[f].T @ weight, (bias - running[f][0]) @ maps[f]
            self.encoder.heads[f].weight.copy_(weight)
            self.encoder.heads[f].bias.copy_(bias)


def unit_or_zero(x):
    """A field that has no map is all zeros."""
    return unit(x) if x.any() else 0 * x


def hold(fields=("picture", "words"), rows=8, stage=0, **options):
    options = {"width": 4, "hidden": 16} | options
    reference = type("Ucasr", (Ucasr,), options | {"stage": stage})
    pretrain = options.get("pretrain", 0.5)
    views = ("weak",) * (pretrain < 1) + ("strong", "strong") * (pretrain > 0)
    golden("ucasr", reference, views=views, fields=fields, rows=rows, **options)


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "signal")])
@pytest.mark.parametrize("pretrain, stage", [(1.0, 0), (0.5, 0), (0.5, 1), (0.0, 0)])
def test_two_steps(fields, pretrain, stage):
    hold(fields, pretrain=pretrain, stage=stage)


@pytest.mark.parametrize(
    "options",
    [
        {"pretrain": 1.0, "temperature": 0.1, "hidden": 8},
        {"pretrain": 0.0, "symmetric": True},
        {"pretrain": 0.0, "cca": False},
        {"pretrain": 0.0, "cca": False, "symmetric": True, "margin": 0.1},
        {"pretrain": 0.0, "ridge": 0.3, "momentum": 0.5},
        {"pretrain": 0.5, "stage": 1, "momentum": 0.0, "margin": 1.5},
        {"pretrain": 0.25, "cca": False},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize("cca", [True, False])
def test_fewer_rows_than_dimensions(cca):
    hold(rows=6, width=8, pretrain=0.0, cca=cca)


@pytest.mark.parametrize("pretrain", [1.0, 0.0])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows, pretrain):
    hold(("picture", "words", "facts"), rows=rows, pretrain=pretrain)


def test_one_field_is_enough_for_the_first_stage():
    hold(("picture",), pretrain=1.0)


def test_defaults():
    """The authors' configuration; they keep no running moments, but refine them at the end."""
    assert defaults("ucasr") == {
        "pretrain": 0.5,
        "width": 32,
        "hidden": 512,
        "temperature": 0.5,
        "margin": 0.6,
        "symmetric": False,
        "cca": True,
        "ridge": 1e-3,
        "momentum": 0.9,
    }
    hold(width=32, hidden=512)
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-3, 1e-5, (0.9, 0.999))
    assert (r.schedule, r.decay_rate, r.patience, r.warmup) == ("plateau", 0.5, 15, 0.0)
    assert (r.clip, r.batch_size, r.epochs) == (0.0, 128, 300.0)
