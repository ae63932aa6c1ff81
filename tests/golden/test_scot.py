"""SCOT, Jawade et al. 2025, arXiv:2501.08347: a frozen space of pictures and texts, and in it the Combiner
of Baldrati et al. (2022) that makes one vector of a picture and of a change to it. In place of the
changed picture stands the caption after the edit; negatives are those of other records, and the
caption before it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from amodal import modalities
from amodal.core import Batch
from tests.golden.harness import Reference, common, defaults, golden, unit
from tests.methods import bench

EDITS = ("picture", "words", "change", "changed")


def info_nce(logits):
    """Both directions."""
    n = len(logits)
    total = sum(logits[i].logsumexp(0) + logits[:, i].logsumexp(0) for i in range(n))
    return (total / 2 - logits.diagonal().sum()) / n


class Scot(Reference):
    """Texts of edits are read by the tower of captions; what is of another kind has its own."""

    stage, caption, change, changed, original = 1, "words", "change", "changed", True
    width, project, hidden, temperature, max_scale, warmup = 8, 2, 3, 0.07, 100.0, 0.5
    own_towers = False

    def __init__(self, page):
        page.on_stage_start(self.stage if self.warmup else 0)
        super().__init__(page)
        self.stages = page.stages
        self.frozen = [n for n, p in page.named_parameters() if not p.requires_grad]

    def check_start(self):
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        assert self.stages == ((self.warmup, 1.0) if self.warmup else (1.0,))
        begin = self.w["scale.log"].detach().exp()
        assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)
        names = dict(self.encoder.named_parameters())
        assert names["combiner.change.0.weight"].shape == (self.project * self.width, self.width)
        assert names["combiner.mix.2.weight"].shape == (self.width, self.hidden * self.width)
        assert names["combiner.gate.0.weight"].shape == (
            self.hidden * self.width,
            2 * self.project * self.width,
        )
        learns = {n for n, p in names.items() if p.requires_grad}
        combiner = {n for n in names if n.startswith("combiner.")}
        if self.stage == 1:
            assert learns == combiner
        else:
            assert learns >= names.keys() - combiner

    def scale(self):
        log = self.w["scale.log"]
        if log.detach().exp() > self.max_scale:
            return self.max_scale * (log - log.detach()).exp()
        return log.exp()

    def vectors(self, batch):
        """Of every field, those of edits by the tower of captions."""
        if self.own_towers:
            return dict(self.encoder(batch).columns)
        plain = {f: c for f, c in batch.columns.items() if f not in (self.change, self.changed)}
        columns = dict(self.encoder(replace(batch, columns=plain)).columns)
        for f in (self.change, self.changed):
            one = Batch.of(batch.size, {self.caption: batch[f]}, batch.keys)
            columns[f] = self.encoder(one)[self.caption]
        return columns

    def losses(self, batch):
        columns = self.vectors(batch)
        return self.contrast(columns) if self.stage == 0 else self.compose(columns)

    def contrast(self, columns):
        """CLIP's, of what the towers are of."""
        read = columns if self.own_towers else [
            f for f in columns if f not in (self.change, self.changed)
        ]  # fmt: skip
        pairs, terms = list(itertools.combinations(read, 2)), {}
        for a, b in pairs:
            x, y = (unit(z) for z in common(columns, a, b))
            loss = info_nce(x @ y.T * self.scale()) if len(x) > 1 else 0 * (x.sum() + y.sum())
            terms[f"info_nce/{a}~{b}"] = loss / len(pairs)
        return terms

    def compose(self, columns):
        references = [f for f in columns if f not in (self.caption, self.change, self.changed)]
        value = {f: dict(zip(c.rows.tolist(), unit(c.values))) for f, c in columns.items()}
        terms = {}
        for f in references:
            needed = (f, self.change, self.changed)
            rows = [r for r in range(99) if all(r in value[s] for s in needed)]
            target = [value[self.changed][r] for r in rows]
            total = 0 * sum(p.sum() for p in self.encoder.combiner.parameters())
            for i, r in enumerate(rows):
                c = self.combined(value[f][r], value[self.change][r])
                others = [u for j, u in enumerate(target) if j != i]
                if self.original and r in value[self.caption]:
                    others.append(value[self.caption][r])
                # what reads as the right result is none of the wrong ones
                others = [u for u in others if u @ target[i] <= 1 - 1e-5]
                logits = torch.stack([target[i], *others]) @ c * self.scale()
                total = total + logits.logsumexp(0) - logits[0]
            terms[f"compose/{f}"] = total / max(len(rows), 1) / len(references)
        return terms

    def combined(self, v, m):
        w = dict(self.encoder.named_parameters())

        def linear(name, x):
            return w[f"combiner.{name}.weight"] @ x + w[f"combiner.{name}.bias"]

        both = torch.cat([linear("reference.0", v).relu(), linear("change.0", m).relu()])
        gate = 1 / (1 + (-linear("gate.2", linear("gate.0", both).relu())).exp())
        mixed = linear("mix.2", linear("mix.0", both).relu())
        return unit(gate * v + (1 - gate) * m + mixed)


@pytest.fixture(autouse=True)
def texts_of_edits(monkeypatch):
    """Captions, what to change, and captions after it, of which some are as before."""
    small, draw = bench.fields, bench.raw

    def fields(names=bench.FIELDS):
        text = modalities.make("text", max_length=24, patch=4)
        plain = small(tuple(n for n in names if n in bench.FIELDS))
        return {n: plain.get(n, text) for n in names}

    def raw(field, rng):
        if field in ("change", "changed"):
            return str(rng.choice(["a boat", "the sea", "red"]))
        if field == "words":
            return str(rng.choice(["a boat", "the sea", "blue"]))
        return draw(field, rng)

    monkeypatch.setattr(bench, "fields", fields)
    monkeypatch.setattr(bench, "raw", raw)


def hold(fields=EDITS, rows=8, stage=1, **options):
    options = {"width": 8, "project": 2, "hidden": 3} | options
    own = options.get("change", "change") in bench.FIELDS
    options = {"change": "change", "changed": "changed"} | options
    reference = type("Scot", (Scot,), options | {"stage": stage, "own_towers": own})
    golden("scot", reference, views=("plain",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("original", [True, False])
def test_two_steps(stage, original):
    hold(stage=stage, original=original)


@pytest.mark.parametrize("stage", [0, 1])
def test_two_steps_of_fields_with_towers_of_their_own(stage):
    hold(bench.FIELDS, stage=stage, change="facts", changed="signal")


@pytest.mark.parametrize("stage", [0, 1])
def test_two_steps_of_two_references(stage):
    hold((*EDITS, "signal"), stage=stage, rows=10)


@pytest.mark.parametrize("options", [{"temperature": 0.5}, {"max_scale": 5.0}, {"hidden": 1}])
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows, stage):
    hold(rows=rows, stage=stage)


def test_some_edits_change_nothing():
    """So that the case is in the batches above."""
    b = bench.batch(("plain",), size=8, seed=1, sources=EDITS)
    same = 0
    for row in range(8):
        texts = []
        for f in ("words", "changed"):
            rows = b[f].rows.tolist()
            if row in rows:
                texts.append(b[f].values.split()[rows.index(row)].tolist())
        same += len(texts) == 2 and texts[0] == texts[1]
    assert same


def test_defaults():
    """A space of 256; the Combiner's published layers are 4 and 8 times as wide as its space."""
    assert defaults("scot") == {
        "text_field": "",
        "change": "change",
        "changed": "changed",
        "original": True,
        "warmup": 0.5,
        "width": 256,
        "project": 4,
        "hidden": 8,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    hold(width=8, project=4, hidden=8)
    hold(width=16, warmup=0.0)
