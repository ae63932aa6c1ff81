"""MedFLIP, Li et al. 2024, arXiv:2403.04626, section 3: CLIP on masked pictures with MedCLIP's soft
targets, a term in the leading singular value of the similarities, and MAE's reconstruction."""

import itertools
import math

import pytest
import torch

from amodal.core import name_code
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from tests.golden.harness import common, defaults, golden, unit
from tests.golden.naive import positions
from tests.golden.pairs import PairsOfFields

PATCH = 8


class MedFlip(PairsOfFields):
    ratio, tuning, stage, semantics, spectral, relative, reconstruct = (
        0.5,
        0.0,
        0,
        "",
        1.0,
        True,
        0.0,
    )
    heads, depth, texts = 2, 1, ("words",)

    def __init__(self, page):
        page.on_stage_start(self.stage)
        super().__init__(page)
        self.w["learned.log"] = self.w["scale.log"]  # the name in `PairsOfFields`
        self.page_stages, self.page_labels = page.stages, page.labels

    def state(self):
        return {n: v for n, v in super().state().items() if n != "learned.log"}

    def parameters(self):
        return {n: v for n, v in super().parameters().items() if n != "learned.log"}

    def check_start(self):
        super().check_start()
        assert self.page_stages == ((1 - self.tuning, 1.0) if self.tuning else (1.0,))
        assert self.page_labels == ((self.semantics,) if self.semantics else ())

    def losses(self, batch):
        tokens = self.encoder.tokenize(batch)
        keep = {s: self.mask(s, t, batch.seeds) for s, t in tokens.items()}
        seen = self.encoder.encode({s: t.keep(keep[s]) for s, t in tokens.items()})
        z = self.encoder.pool(seen)
        z = {s: self.project(s, c) for s, c in z.items()}
        pairs, terms = list(itertools.combinations(z, 2)), {}
        for a, b in pairs:
            one, other = (unit(x) for x in common(z, a, b))
            rows = [r for r in z[a].rows.tolist() if r in z[b].rows.tolist()]
            match, spectrum = 0 * (one.sum() + other.sum()), 0 * (one.sum() + other.sum())
            if len(rows) > 1:
                match = self.match(one @ other.T * self.scale(), self.targets(batch, rows))
                spectrum = self.spectrum(one @ other.T)
            terms[f"match/{a}~{b}"] = match / len(pairs)
            if self.spectral:
                terms[f"spectrum/{a}~{b}"] = self.spectral * spectrum / len(pairs)
        return terms | self.reconstructions(batch, tokens, keep, seen)

    def mask(self, source, t, seeds):
        """FLIP: a random share of the patches stays; texts are never masked."""
        if source in self.texts or (self.tuning and self.stage == 1):
            return torch.ones(len(t), dtype=torch.bool)
        draws = hash_bits(seeds, name_code(f"seen {source}"))[t.row]
        return random_keep(t.row, draws, t.within(), self.ratio)

    def project(self, field, column):
        values = column.values @ self.encoder.heads[field].weight.T
        return type(column)(values, column.rows)

    def targets(self, batch, rows):
        """MedCLIP: softmax of how alike labels are; a row without a label is like itself alone."""
        y = torch.eye(len(rows)).double()
        if self.semantics:
            column = batch.labels[self.semantics]
            label = dict(zip(column.rows.tolist(), column.values.tolist()))
            for i, r in enumerate(rows):
                if r in label:
                    like = [math.exp(label.get(other) == label[r]) for other in rows]
                    y[i] = torch.tensor(like, dtype=torch.float64) / sum(like)
        return y

    def match(self, logits, y):
        """Over both directions, of which the paper takes half."""
        n = len(logits)
        total = 0
        for i in range(n):
            for j in range(n):
                there = logits[i, j] - logits[i].logsumexp(0)
                back = logits[j, i] - logits[:, i].logsumexp(0)
                total = total - y[i, j] * (there + back)
        return total / (2 * n)

    def spectrum(self, s):
        values = torch.linalg.svdvals(s)
        return values[0] / (values.sum() if self.relative else len(s))

    def reconstructions(self, batch, tokens, keep, seen):
        """MAE's: the mean over hidden patches of their squared error."""
        fields = [s for s in tokens if s not in self.texts]
        if not self.reconstruct:
            return {}
        terms = {}
        for s in fields:
            hidden = tokens[s].keep(~keep[s])
            if not len(hidden):
                terms[f"reconstruct/{s}"] = 0 * self.w["decoder.in_proj.bias"].sum()
                continue
            x = self.decode(s, seen[s], hidden)
            predicted = self.linear(f"predictors.{s}", x)
            target = self.pixels(batch[s]) if s == "picture" else self.samples(batch[s])
            error = (predicted - target[~keep[s]]) ** 2
            terms[f"reconstruct/{s}"] = self.reconstruct * error.mean(1).mean() / len(fields)
        return terms

    def decode(self, source, seen, hidden):
        x = self.linear("decoder.in_proj", seen.x)
        x = torch.cat([x, self.w[f"decoder.mask.{source}"].expand(len(hidden), -1)])
        place = torch.cat([seen.position, hidden.position])
        x = x + positions(place, x.shape[1]) + self.w[f"decoder.field.{source}"]
        rows, out = torch.cat([seen.row, hidden.row]), torch.zeros_like(x)
        for r in sorted(set(rows.tolist())):  # no row sees another
            out = out.index_copy(0, (rows == r).nonzero()[:, 0], self.trunk(x[rows == r]))
        return out[len(seen) :]

    def trunk(self, x):
        for i in range(self.depth):
            name = f"decoder.trunk.blocks.{i}"
            y = self.linear(f"{name}.attention.qkv", self.norm(f"{name}.norm1", x))
            q, k, v = (part.chunk(self.heads, 1) for part in y.chunk(3, 1))
            made = [
                torch.softmax(a @ b.T / math.sqrt(a.shape[1]), dim=1) @ c
                for a, b, c in zip(q, k, v)
            ]
            x = x + self.linear(f"{name}.attention.out", torch.cat(made, 1))
            y = self.linear(f"{name}.up", self.norm(f"{name}.norm2", x))
            x = x + self.linear(f"{name}.down", y * (1 + torch.erf(y / math.sqrt(2))) / 2)
        return self.norm("decoder.trunk.norm", x)

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name, x):
        var, mean = torch.var_mean(x, dim=-1, keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-5).sqrt() * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def pixels(self, column):
        """Each patch in deviations of its own pixels, as MAE has them."""
        patches = [
            image[:, i : i + PATCH, j : j + PATCH].flatten()
            for image in (column.values.double() - 0.5) / 0.25
            for i in range(0, image.shape[1], PATCH)
            for j in range(0, image.shape[2], PATCH)
        ]
        x = torch.stack(patches)
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-6).sqrt()

    def samples(self, column):
        """Stretches of samples, in deviations of their channel."""
        series = self.encoder.fields["signal"]
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in series.scale())
        made = []
        for value in column.values.split():
            x = (value.double() - mean) / std
            assert not len(x) % series.patch
            made.append(x.reshape(-1, series.patch * x.shape[1]))
        return torch.cat(made)


def hold(fields=("picture", "words"), rows=6, stage=0, size="nano", **options):
    options = {"width": 8, "semantics": "", "reconstruct": 0.0, "tuning": 0.0} | options
    reference = type("MedFlip", (MedFlip,), options | {"stage": stage})
    for name in ("texts", "heads"):
        options.pop(name, None)
    golden("medflip", reference, views=("plain",), fields=fields, rows=rows, size=size, **options)


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "signal")])
@pytest.mark.parametrize("semantics", ["", "kind"])
@pytest.mark.parametrize("reconstruct", [0.0, 0.7])
def test_two_steps(fields, semantics, reconstruct):
    hold(fields, semantics=semantics, reconstruct=reconstruct)


@pytest.mark.parametrize("stage", [0, 1])
def test_two_steps_of_each_stage(stage):
    """At the end pictures are seen whole, and nothing is there to be reconstructed."""
    hold(("picture", "words", "signal"), tuning=0.3, stage=stage, reconstruct=1.0, semantics="kind")


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.75, "spectral": -2.0},
        {"ratio": 0.0, "spectral": 0.0},
        {"ratio": 0.25, "relative": False, "reconstruct": 0.3},
        {"temperature": 0.5},
        {"max_scale": 5.0},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


def test_two_steps_without_a_text():
    """Then every field is masked."""
    hold(("picture", "signal"), reconstruct=1.0, texts=())


@pytest.mark.parametrize("semantics", ["", "kind"])
@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_few_rows_and_more(rows, semantics):
    hold(("picture", "words", "signal"), rows=rows, semantics=semantics, reconstruct=1.0)


def test_two_steps_of_a_wider_encoder():
    """The decoder is as wide as the encoder, with as many heads."""
    hold(size="tiny", rows=3, reconstruct=1.0, heads=4)


def test_defaults():
    """The paper's width and least masking; temperature and bound are CLIP's."""
    assert defaults("medflip") == {
        "ratio": 0.5,
        "tuning": 0.0,
        "width": 512,
        "temperature": 0.07,
        "max_scale": 100.0,
        "semantics": "",
        "spectral": 1.0,
        "relative": True,
        "reconstruct": 0.0,
    }
    hold(width=512)
