"""Wu et al. 2022, arXiv:2211.02077: realignment and curriculum of section 3, VATT's two losses."""

import itertools

import pytest
import torch

from amodal.core import Column
from amodal.masking.random import random_keep
from amodal.methods.contract import Clock
from amodal.train.step import gradients
from tests.golden import naive
from tests.golden.harness import (
    STEPS,
    Reference,
    assert_same,
    common,
    defaults,
    descend,
    golden,
    unit,
)
from tests.methods import bench
from tests.methods.bench import exact, method


class Harmonized(Reference):
    anchor, others, texts = "picture", ("words", "signal"), ("words",)
    curriculum, realigned, start, end, captions, drop = "row", True, -0.3, 0.0, 2, 0.5
    temperature = 0.07

    def check_start(self):
        assert self.min_batch_size == 2 and self.encoder.space_width == 8
        assert self.encoder.trunk == "shared"  # one transformer for all fields
        assert list(self.w) == ["gamma"]
        torch.testing.assert_close(float(self.w["gamma"]), self.start)

    def losses(self, batch):
        z = self.vectors(batch)
        stays = self.aligned_rows(z) if self.curriculum == "row" else None
        return {self.name(f): self.between(z, f, stays) / len(self.others) for f in self.others}

    def name(self, field):
        return f"{'mil_nce' if field in self.texts else 'info_nce'}/{self.anchor}~{field}"

    def vectors(self, batch):
        """DropToken of all fields but texts, then one transformer, the mean, and a linear map."""
        tokens = self.encoder.tokenize(batch)
        for s in [s for s in tokens if s.partition(":")[0] not in self.texts]:
            draws = [signed(naive.bits(int(x), naive.code(f"drop {s}"))) for x in batch.seeds]
            t = tokens[s]
            within = torch.cat([torch.arange(n) for n in torch.bincount(t.row) if n])
            keep = random_keep(t.row, torch.tensor(draws)[t.row], within, self.drop)
            tokens[s] = t.keep(keep)
        z = {}
        for s, t in tokens.items():
            out = self.encoder.encode({s: t})[s]
            rows = batch.columns[s].rows
            x = torch.stack([out.x[out.row == r].mean(0) for r in rows.tolist()])
            z[s] = Column(x @ self.encoder.heads[s.partition(":")[0]].weight.T, rows)
        return z

    def sources(self, field):
        """A text's candidates, or the field itself."""
        if field not in self.texts or self.captions == 1:
            return [field]
        return [f"{field}:{i + 1}" for i in range(self.captions)]

    def between(self, z, field, stays=None):
        first, *rest = self.sources(field)
        a, rows = self.shared(z, first, stays)
        lists = [common(z, self.anchor, s)[1] for s in (first, *rest)]
        everyone = self.shared(z, first, None)[1]
        present = [everyone.index(r) for r in rows]
        b = torch.stack([x[present] for x in lists], 1)
        return self.mil_nce(a, b) if field in self.texts else self.info_nce(a, b[:, 0])

    def shared(self, z, source, stays):
        """Vectors of the anchor, and numbers, of the rows that have both and stay."""
        rows = [r for r in z[self.anchor].rows.tolist() if r in z[source].rows.tolist()]
        rows = [r for r in rows if stays is None or stays[r]]
        places = [z[self.anchor].rows.tolist().index(r) for r in rows]
        return z[self.anchor].values[places], rows

    def info_nce(self, a, b):
        logits, total, n = unit(a) @ unit(b).T / self.temperature, 0, len(a)
        if n < 2:
            return 0 * (a.sum() + b.sum())
        for i in range(n):
            total = total + logits[i].logsumexp(0) + logits[:, i].logsumexp(0) - 2 * logits[i, i]
        return total / n / 2

    def mil_nce(self, a, b):
        """Miech et al. 2020, equation 1: negatives of both directions."""
        n, total = len(a), 0
        if n < 2:
            return 0 * (a.sum() + b.sum())
        s = torch.einsum("id,jkd->ijk", unit(a), unit(b)).div(self.temperature).exp()
        for i in range(n):
            negatives = sum(s[i, j].sum() + s[j, i].sum() for j in range(n) if j != i)
            total = total - torch.log(s[i, i].sum() / (s[i, i].sum() + negatives))
        return total / n

    def aligned_rows(self, z):
        """A row stays if the gradients of every two losses at its anchor have a cosine above gamma,
        or if it has only one of them."""
        leaf = z[self.anchor].values.detach().requires_grad_()
        cut = {s: Column(c.values.detach(), c.rows) for s, c in z.items()}
        cut[self.anchor] = Column(leaf, z[self.anchor].rows)
        by_term, having = [], []
        for f in self.others:
            having.append(set(self.shared(cut, self.sources(f)[0], None)[1]))
            by_term.append(torch.autograd.grad(self.between(cut, f), leaf)[0])
        stays = {}
        for i, r in enumerate(cut[self.anchor].rows.tolist()):
            lowest = 1.0
            for m, n in itertools.combinations(range(len(by_term)), 2):
                if r in having[m] and r in having[n]:
                    lowest = min(lowest, float(naive.cosine(by_term[m][i], by_term[n][i])))
            stays[r] = lowest > float(self.w["gamma"])
        self.dropped = [r for r, stay in stays.items() if not stay]
        return stays

    def combined(self, by_term):
        """Algorithm 1, from the original gradients, by the parameters that both losses reach."""
        total, lowest = sum(by_term.values()), 1.0
        for g, h in itertools.combinations(by_term.values(), 2):
            both = (g != 0) & (h != 0)
            g, h = g * both, h * both
            if not both.any():
                continue
            inner = g @ h
            lowest = min(lowest, float(inner / g.norm() / h.norm()))
            if self.realigned and inner < 0:
                total = total - inner / (h @ h) * h - inner / (g @ g) * g
        if self.curriculum == "batch" and lowest <= float(self.w["gamma"]):
            return torch.zeros_like(total)
        return total

    def after_step(self, step, steps):
        gamma = self.start + (self.end - self.start) * step / steps
        self.w["gamma"] = torch.tensor(gamma, dtype=torch.float64)


def signed(word):
    return word - 2**64 if word >= 2**63 else word


def reference_of(fields, **options):
    others = tuple(f for f in fields if f != "picture")
    known = {k: v for k, v in options.items() if hasattr(Harmonized, k)}
    return type("Harmonized", (Harmonized,), known | {"others": others})


def views_of(fields, captions):
    drawn = ("local",) * captions if captions > 1 else ("weak",)
    return {f: drawn if f == "words" else ("weak",) for f in fields}


def hold(fields=("picture", "words", "signal"), **options):
    options = {"width": 8, "captions": 2} | options
    golden(
        "cma_harmonize",
        reference_of(fields, **options),
        views=views_of(fields, options["captions"]),
        fields=fields,
        rows=8,
        **options,
    )


def test_two_steps():
    hold()


@pytest.mark.parametrize(
    "options",
    [
        {"start": 0.3, "end": 0.7},  # most rows are left out
        {"curriculum": "none", "drop": 0.25, "temperature": 0.4},
        {"captions": 1, "drop": 0.0},
        {"captions": 3, "start": -0.9, "end": 0.9},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize(
    "fields", [("picture", "words"), ("picture", "words", "signal", "facts"), ("picture", "facts")]
)
def test_two_steps_with_other_fields(fields):
    hold(fields, start=0.2)


def test_another_anchor():
    reference = type(
        "Harmonized", (Harmonized,), {"anchor": "signal", "others": ("picture", "words")}
    )
    fields = ("picture", "words", "signal")
    views = views_of(fields, 2)
    golden(
        "cma_harmonize",
        reference,
        views=views,
        fields=fields,
        rows=8,
        width=8,
        captions=2,
        anchor="signal",
    )


@pytest.mark.parametrize("fields", [("picture", "words", "signal", "facts")])
@pytest.mark.parametrize(
    "options",
    [
        {"curriculum": "row", "start": 0.1},
        {"curriculum": "none"},
        {"curriculum": "batch", "start": -0.9},
        {"curriculum": "batch", "start": -0.9, "realigned": False},
        {"curriculum": "batch", "start": 0.99},  # nothing is learnt
    ],
)
def test_two_steps_of_combined_gradients(fields, options):
    """The gradient for the optimizer, through the training loop's own step."""
    options = {"width": 8, "captions": 2} | options
    page = exact(method("cma_harmonize", sources=fields, **options)).train()
    with torch.no_grad():
        for p in page.parameters():
            p += 0.3 * torch.randn_like(p)  # gradients of some pairs conflict
    naive_page = reference_of(fields, **options)(page)
    views, conflicts = views_of(fields, 2), 0
    for step in (1, 2):
        rows = exact(bench.batch(views, size=8, seed=step, sources=fields))
        gradients(page, rows)
        learnt = naive_page.parameters()
        by_term = {}
        for name, term in naive_page.losses(rows).items():
            grads = torch.autograd.grad(
                term, list(learnt.values()), retain_graph=True, allow_unused=True
            )
            by_term[name] = torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for g, p in zip(grads, learnt.values())
                ]
            )
        conflicts += sum(float(g @ h) < 0 for g, h in itertools.combinations(by_term.values(), 2))
        wanted = naive_page.combined(by_term).split([p.numel() for p in learnt.values()])
        for p, part in zip(learnt.values(), wanted):
            p.grad = part.view_as(p).clone()
        trained = dict(page.named_parameters())
        assert_same(
            {n: p.grad for n, p in trained.items()},
            {n: p.grad for n, p in learnt.items()},
            f"step {step}: gradient",
        )
        descend(trained)
        descend(learnt)
        page.on_step_end(Clock(step, STEPS))
        naive_page.after_step(step, STEPS)
        assert_same(dict(page.state_dict()), naive_page.state(), f"after step {step}:")
    assert conflicts or options["curriculum"] == "row"


def test_gradients_that_conflict():
    """Of made-up gradients, of which some parameters are reached by one loss alone."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    b, a[:5], b[5:9] = b - a, 0.0, 0.0
    for options in ({}, {"realigned": False, "curriculum": "batch"}, {"curriculum": "batch"}):
        page = exact(method("cma_harmonize", sources=("picture", "words"), width=8, **options))
        reference = reference_of(("picture", "words"), width=8, **options)(page)
        for gamma in (-0.99, -0.3, 0.5):
            if "gamma" in reference.w:
                page.gamma.fill_(gamma)
                reference.w["gamma"] = torch.tensor(gamma, dtype=torch.float64)
            for by_term in ({"a": a, "b": b}, {"a": a, "b": b, "c": c}, {"a": a, "c": 0 * c}):
                torch.testing.assert_close(
                    page.combine_gradients(by_term),
                    reference.combined(by_term),
                    rtol=1e-12,
                    atol=1e-12,
                )
        assert (a @ b) < 0


def test_defaults():
    """Section 4: gamma from -0.3 to 0; VATT's 5 candidates, temperature 0.07 and half the tokens."""
    assert defaults("cma_harmonize") == {
        "anchor": "",
        "realigned": True,
        "curriculum": "row",
        "start": -0.3,
        "end": 0.0,
        "captions": 5,
        "drop": 0.5,
        "width": 128,
        "temperature": 0.07,
    }
    hold(captions=5)
