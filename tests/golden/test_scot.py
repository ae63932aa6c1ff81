"""SCOT, Jawade et al. 2025, arXiv:2501.08347: a frozen space of pictures and texts, and in it the Combiner
of Baldrati et al. (2022) that makes one vector of a picture and of a change to it. In place of the
changed picture stands the caption after the edit; negatives are those of other records, and the
caption before it."""

import itertools
from dataclasses import replace

import pytest
import torch

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, name_code
from amodal.masking.hashing import hash_bits, uniform
from tests.golden.harness import common, defaults, golden, unit
from tests.golden.pairs import LearnedTemperature
from tests.methods import bench

ALIKE = {"sound": "signal", "depth": "picture"}
"""Fields of the kind of those of the bench."""
EDITS = ("picture", "words", "change", "signal", "changed")
"""In this order a row that has a picture and its edit may have the caption of before, or may not."""


def info_nce(logits):
    """Both directions."""
    n = len(logits)
    total = sum(logits[i].logsumexp(0) + logits[:, i].logsumexp(0) for i in range(n))
    return (total / 2 - logits.diagonal().sum()) / n


class Scot(LearnedTemperature):
    """Texts of edits are read by the tower of captions; what is of another kind has its own.

    Attributes:
        towers: Of the field that says what to change and of the result, by whose tower it is read.
    """

    log = "scale.log"
    stage, caption, change, changed, original = 1, "words", "change", "changed", True
    project, hidden, warmup, dropout = 2, 3, 0.5, 0.0
    towers = {"change": "words", "changed": "words"}

    def __init__(self, page):
        page.on_stage_start(self.stage if self.warmup else 0)
        super().__init__(page)
        self.stages = page.stages
        self.frozen = [n for n, p in page.named_parameters() if not p.requires_grad]

    def check_start(self):
        super().check_start()
        assert self.stages == ((self.warmup, 1.0) if self.warmup else (1.0,))
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

    def vectors(self, batch):
        """Of every field, those of edits by the tower of captions."""
        plain = {f: c for f, c in batch.columns.items() if f not in self.towers}
        columns = dict(self.encoder(replace(batch, columns=plain)).columns)
        for f, tower in self.towers.items():
            one = Batch.of(batch.size, {tower: batch[f]}, batch.keys)
            columns[f] = self.encoder(one)[tower]
        return columns

    def losses(self, batch):
        columns = self.vectors(batch)
        return self.contrast(columns) if self.stage == 0 else self.compose(columns, batch)

    def contrast(self, columns):
        """CLIP's, of what the towers are of."""
        read = [f for f in columns if f not in self.towers]
        pairs, terms = list(itertools.combinations(read, 2)), {}
        for a, b in pairs:
            x, y = (unit(z) for z in common(columns, a, b))
            loss = info_nce(x @ y.T * self.scale()) if len(x) > 1 else 0 * (x.sum() + y.sum())
            terms[f"info_nce/{a}~{b}"] = loss / len(pairs)
        return terms

    def compose(self, columns, batch):
        references = [f for f in columns if f not in (self.caption, self.change, self.changed)]
        value = {f: dict(zip(c.rows.tolist(), unit(c.values))) for f, c in columns.items()}
        terms = {}
        for f in references:
            needed = (f, self.change, self.changed)
            rows = [r for r in range(99) if all(r in value[s] for s in needed)]
            target = [value[self.changed][r] for r in rows]
            total = 0 * sum(p.sum() for p in self.encoder.combiner.parameters())
            for i, r in enumerate(rows):
                seed = hash_bits(batch.seeds[r][None], name_code(f))
                c = self.combined(value[f][r], value[self.change][r], seed)
                others = [u for j, u in enumerate(target) if j != i]
                if self.original and r in value[self.caption]:
                    others.append(value[self.caption][r])
                # what reads as the right result is none of the wrong ones
                others = [u for u in others if u @ target[i] <= 1 - 1e-5]
                logits = torch.stack([target[i], *others]) @ c * self.scale()
                total = total + logits.logsumexp(0) - logits[0]
            terms[f"compose/{f}"] = total / max(len(rows), 1) / len(references)
        return terms

    def combined(self, v, m, seed):
        """Every hidden layer loses entries, each with a draw of its own."""
        w = dict(self.encoder.named_parameters())

        def linear(name, x):
            return w[f"combiner.{name}.weight"] @ x + w[f"combiner.{name}.bias"]

        def drop(x, place):
            stays = uniform(seed, place, torch.arange(len(x))) >= self.dropout
            return torch.where(stays, x, 0.0) / (1 - self.dropout)

        both = [drop(linear("reference.0", v).relu(), 0), drop(linear("change.0", m).relu(), 1)]
        both = torch.cat(both)
        gate = 1 / (1 + (-linear("gate.2", drop(linear("gate.0", both).relu(), 3))).exp())
        mixed = linear("mix.2", drop(linear("mix.0", both).relu(), 2))
        return unit(gate * v + (1 - gate) * m + mixed)


@pytest.fixture(autouse=True)
def texts_of_edits(monkeypatch):
    """Captions, what to change, and captions after it, of which some are as before."""
    small, draw = bench.fields, bench.raw

    def fields(names=bench.FIELDS):
        text, plain = modalities.make("text", max_length=24, patch=4), small(bench.FIELDS)
        return {n: plain[ALIKE[n]] if n in ALIKE else plain.get(n, text) for n in names}

    def raw(field, rng):
        if field in ("change", "changed"):
            return str(rng.choice(["a boat", "the sea", "red"]))
        if field in ("words", "note"):
            return str(rng.choice(["a boat", "the sea", "blue"]))
        return draw(ALIKE.get(field, field), rng)

    monkeypatch.setattr(bench, "fields", fields)
    monkeypatch.setattr(bench, "raw", raw)


def hold(fields=EDITS, rows=14, stage=1, towers=None, caption="words", **options):
    options = {"width": 8, "project": 2, "hidden": 3} | options
    options = {"change": "change", "changed": "changed"} | options
    towers = {"change": caption, "changed": caption} if towers is None else towers
    of_test = {"stage": stage, "towers": towers, "caption": caption}
    reference = type("Scot", (Scot,), options | of_test)
    golden("scot", reference, views=("plain",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("original", [True, False])
def test_two_steps(stage, original):
    hold(stage=stage, original=original)


@pytest.mark.parametrize("stage", [0, 1])
def test_two_steps_of_fields_with_towers_of_their_own(stage):
    fields = ("picture", "words", "facts", "note", "signal")
    hold(fields, stage=stage, change="facts", changed="signal", towers={})


@pytest.mark.parametrize("stage", [0, 1])
def test_two_steps_of_two_texts(stage):
    """The first is the caption, or one that is named; the other may be changed like a picture."""
    two = ("note", "picture", "change", "words", "changed")
    hold(two, stage=stage, caption="note")
    hold(two, stage=stage, caption="words", text_field="words")


@pytest.mark.parametrize("stage", [0, 1])
def test_two_steps_without_a_text(stage):
    """The last field is the caption, and reads what is of its kind."""
    fields = ("picture", "sound", "facts", "signal")
    towers = {"signal": "sound"}
    options = {"change": "facts", "changed": "signal", "caption": "sound", "towers": towers}
    hold(fields, stage=stage, **options)
    hold(("picture", "depth", "sound", "facts", "signal"), stage=stage, **options)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.5}, {"max_scale": 5.0}, {"hidden": 1}, {"dropout": 0.5}]
)
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows, stage):
    hold(rows=rows, stage=stage)


def test_some_edits_change_nothing():
    """So that the batches above have captions that are no negatives, and such that are."""
    b = bench.batch(("plain",), size=14, seed=1, sources=EDITS)
    texts = [dict(zip(b[f].rows.tolist(), b[f].values.split())) for f in ("words", "changed")]
    rows = set.intersection(*(set(b[f].rows.tolist()) for f in EDITS if f != "signal"))
    assert {texts[0][r].tolist() == texts[1][r].tolist() for r in rows} == {False, True}


def test_dropout_of_two_references():
    """Draws of one field are not those of another."""
    two = ("note", "picture", "change", "words", "changed")
    hold(two, caption="note", dropout=0.5)


def test_the_combiner_of_its_authors():
    """CLIP4Cir: Adam with 2e-5 at batches of 4,096, 300 epochs, nothing else."""
    r = methods.paper_recipe("scot")
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 2e-5, 0.0, (0.9, 0.999))
    assert (r.batch_size, r.epochs, r.schedule) == (4096, 300.0, "constant")
    assert (r.warmup, r.clip, r.ema) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_is_a_probability(rate):
    with pytest.raises(AmodalError, match="dropout is a probability from 0 to below 1"):
        bench.method("scot", dropout=rate)


def test_stages():
    assert not bench.method("scot").composes and bench.method("scot", warmup=0.0).composes
    with pytest.raises(AmodalError, match="warmup is from 0"):
        bench.method("scot", warmup=1.0)


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
        "dropout": 0.0,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    hold(width=8, project=4, hidden=8)
    hold(width=16, warmup=0.0)
