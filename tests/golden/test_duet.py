"""DUET, Chen et al. 2023, arXiv:2207.01328, and the authors' code, on rows of a table: what the
authors draw from all training images is drawn from the batch."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from amodal import methods, modalities
from amodal.core import Tokens
from amodal.methods.contract import Clock
from amodal.methods.contrastive.duet import PAPER_RECIPE
from amodal.nn.encoder import Encoder
from tests.golden.harness import Reference, defaults, golden, unit
from tests.golden.naive import code, uniform
from tests.methods import bench

COLUMNS = ("age", "colour", "shape", "size")
CODES = {"colour": ("blue", "red"), "shape": ("disc", "ring")}
PICTURES = ("picture", "facts")


def layer_norm(w, name, x):
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attend(w, name, x, y, heads):
    """Multi-head attention from the tokens of one list to those of another."""
    q, (k, v) = linear(w, f"{name}.query", x), linear(w, f"{name}.key_value", y).chunk(2, 1)
    size = q.shape[1] // heads
    parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
    mixed = [(q[:, p] @ k[:, p].T / math.sqrt(size)).softmax(1) @ v[:, p] for p in parts]
    return linear(w, f"{name}.out", torch.cat(mixed, 1))


def cross(w, name, x, y, heads=2):
    """A layer in which one list reads itself and the other one, as LXMERT's do."""
    b, y = f"{name}.blocks.0", layer_norm(w, f"{name}.norm_keys", y)
    z = layer_norm(w, f"{b}.norm1", x)
    x = x + attend(w, f"{b}.self_attention", z, z, heads)
    x = x + attend(w, f"{b}.cross_attention", layer_norm(w, f"{b}.norm2", x), y, heads)
    hidden = nn.functional.gelu(linear(w, f"{b}.up", layer_norm(w, f"{b}.norm3", x)))
    return layer_norm(w, f"{name}.norm", x + linear(w, f"{b}.down", hidden))


class Duet(Reference):
    prompt_probability, blank_probability, mask, contrast, negatives = 0.4, 0.5, 0.4, 0.003, 4
    regress, classes, temperature, patch = 0.01, 0.05, 0.05, 1

    def check_start(self):
        count = self.w["prompts.count"]
        assert all(0.01 < self.w[f"prompts.{name}"].std() < 0.03 for name in ("mask", "blank"))
        assert len(count) == self.entries and (count == 1).all() and self.min_batch_size == 2

    sizes = [0, 3, 3, 0]
    """Of categories, with one more for those that are not listed; 0: a number."""
    entries = 8

    def entry(self, column):
        return sum(max(size, 1) for size in self.sizes[:column])

    def describe(self, cells):
        """Attributes as numbers: deviations and one-hot categories, zero where nothing is known."""
        x, known, has = (torch.zeros(self.entries).double() for _ in range(3))
        for c, cell in enumerate(cells.tolist()):
            start, size = self.entry(c), max(self.sizes[c], 1)
            if math.isnan(cell):
                continue
            known[start : start + size] = 1
            at = start + (int(cell) if self.sizes[c] else 0)
            x[at] = 1.0 if self.sizes[c] else (cell - self.mean) / self.std
            has[at] = 1
        return x, known, has

    mean, std = 0.5, 2.0

    def choose(self, seed, cells, groups):
        """Which token is masked, by one over how often its values were seen; numbers come last."""
        scores = []
        for number, columns in enumerate(groups):
            weights = []
            for c in columns:
                at = self.entry(c) + (int(cells[c]) if self.sizes[c] else 0)
                rare = 1 / float(self.w["prompts.count"][at])
                weights.append(rare if self.sizes[c] else 1e-6 * rare)
            u = uniform(seed, number, code("which")) + 2**-25
            scores.append(math.log(max(weights)) - math.log(-math.log(u)))
        return scores.index(max(scores))

    def prompts(self, batch):
        """Row -> tokens of its prompt; row -> number of the masked token and its columns."""
        content, w = self.encoder.patchify(batch)["facts"], self.w
        cells = dict(zip(batch.columns["facts"].rows.tolist(), batch.columns["facts"].values))
        x, rows, places, masked = [], [], [], {}
        for row in range(batch.size):
            seed, own = int(batch.seeds[row]), (content.row == row).nonzero().flatten().tolist()
            if uniform(seed, code("coin")) < self.prompt_probability and own:
                groups = []
                for at in own:
                    first = int(content.position[at, 0]) * self.patch
                    columns = range(first, min(first + self.patch, len(COLUMNS)))
                    groups.append([c for c in columns if not math.isnan(cells[row][c])])
                chosen = self.choose(seed, cells[row], groups)
                masked[row] = chosen, groups[chosen]
                for number, at in enumerate(own):
                    blank = uniform(seed, number, code("miss")) < self.blank_probability
                    x.append(w["prompts.blank"] if blank else content.x[at])
                    if number == chosen:
                        x[-1] = w["prompts.mask"]
                    places.append(content.position[at])
                    rows.append(row)
            else:  # the template
                for number in range(math.ceil(len(COLUMNS) / self.patch)):
                    x.append(w["prompts.blank"])
                    places.append(torch.tensor([number, 0, 0]).to(content.position))
                    rows.append(row)
        row = torch.tensor(rows)
        tokens = Tokens(
            torch.stack(x), row, 0 * row, torch.stack(places), content.names, batch.size
        )
        read = self.encoder.encode({"facts": self.encoder.add_positions(tokens)})["facts"]
        return {row: read.x[read.row == row] for row in range(batch.size)}, masked, cells

    def losses(self, batch):
        prompts, masked, cells = self.prompts(batch)
        x, self.known, self.has = {}, {}, {}
        for row, value in cells.items():
            x[row], self.known[row], self.has[row] = self.describe(value)
        fields = [f for f in batch.columns if f != "facts"]
        seen = self.encoder.encode(
            {f: self.encoder.add_positions(self.encoder.patchify(batch)[f]) for f in fields}
        )
        terms = {}
        for f in fields:
            rows = batch.columns[f].rows.tolist()
            # one visual token
            tokens = {row: seen[f].x[seen[f].row == row].mean(0, keepdim=True) for row in rows}
            state = {r: cross(self.w, "field_cross", tokens[r], prompts[r])[0] for r in rows}
            read = {
                r: cross(self.w, "prompt_cross", prompts[r], tokens[r])[masked[r][0]]
                for r in rows
                if r in masked
            }
            guess = {r: linear(self.w, "regress", state[r]) for r in rows}
            both = [r for r in rows if r in x]
            plain = [r for r in both if r not in masked]
            for name, weight, loss in (
                ("class", 1.0, self.classify(guess, x, both)),
                ("mask", self.mask, self.mask_loss(read, masked, cells)),
                ("contrast", self.contrast, self.contrast_loss(read, masked, cells, x, batch)),
                ("regress", self.regress, self.regression(guess, x, both)),
                ("classes", self.classes, self.class_loss(state, x, plain)),
            ):
                if weight:
                    terms[f"{name}/{f}"] = weight * loss / len(fields)
        return terms

    def nothing(self):
        return 0 * self.w["regress.bias"].sum()

    def mean_of(self, losses):
        return sum(losses) / len(losses) if losses else self.nothing()

    def classify(self, guess, x, rows):
        """Softmax over the classes of the batch of how well their attributes fit."""
        kinds = torch.stack(list(x.values())).unique(dim=0)
        losses = []
        for r in rows:
            scores = kinds @ guess[r]
            mine = next(k for k in range(len(kinds)) if torch.equal(kinds[k], x[r]))
            losses.append(scores.logsumexp(0) - scores[mine])
        return self.mean_of(losses)

    def regression(self, guess, x, rows):
        """Squared error over what is known."""
        errors = [((guess[r] - x[r]) ** 2)[self.known[r] > 0] for r in rows]
        return torch.cat(errors).mean() if errors else self.nothing()

    def mask_loss(self, read, masked, cells):
        losses = []
        for r, z in read.items():
            out, own = linear(self.w, "prompts.predictor", z), []
            for c in masked[r][1]:
                if self.sizes[c]:
                    start = len(COLUMNS) + sum(self.sizes[:c])
                    logits = out[start : start + self.sizes[c]]
                    own.append(logits.logsumexp(0) - logits[int(cells[r][c])])
                else:
                    own.append((out[c] - (float(cells[r][c]) - self.mean) / self.std) ** 2)
            losses.append(sum(own) / len(own))
        return self.mean_of(losses)

    def contrast_loss(self, read, masked, cells, x, batch):
        """Equation of attribute-level contrast: one positive, K negatives, dot products."""
        rows, losses = list(read), []
        z = {
            r: linear(self.w, "project.2", linear(self.w, "project.0", read[r]).relu())
            for r in rows
        }
        # which token of the table, and the cells that are there
        value = {
            r: (masked[r][1][0] // self.patch, {c: float(cells[r][c]) for c in masked[r][1]})
            for r in rows
        }
        for r in rows:
            positive, negatives = [], []
            for other in rows:
                noise = []
                for k in (0, 1):
                    u = uniform(int(batch.seeds[r]), int(batch.seeds[other]), k) + 2**-25
                    noise.append(-math.log(-math.log(u)))
                distance = float((x[r] - x[other]).abs().sum())
                same_attribute, same = value[r][0] == value[other][0], value[r] == value[other]
                if same and distance > 0:
                    positive.append((2 * math.log(distance) + noise[0], other))
                if same_attribute and not same:
                    negatives.append((-2 * math.log(distance) + noise[1], other))
                if not same_attribute:  # only where there are too few
                    negatives.append((-1e4 + noise[1], other))
            if not positive or not negatives:
                continue
            best = sorted(negatives, reverse=True)[: self.negatives]
            logits = torch.stack(
                [z[r] @ z[max(positive)[1]], *(z[r] @ z[other] for _, other in best)]
            )
            losses.append(logits.logsumexp(0) - logits[0])
        return self.mean_of(losses)

    def class_loss(self, state, x, rows):
        """Records of one class attract each other, all others repel. In templates alone."""
        losses = []
        for r in rows:
            others = [o for o in rows if o != r]
            logits = {o: unit(state[r]) @ unit(state[o]) / self.temperature for o in others}
            mates = [logits[o] for o in others if torch.equal(x[o], x[r])]
            if mates:
                every = torch.stack(list(logits.values())).logsumexp(0)
                losses.append(sum(every - mate for mate in mates) / len(mates))
        return self.mean_of(losses)

    def after_step(self, step, steps):
        self.w["prompts.count"] = self.w["prompts.count"] + sum(self.has.values())


@pytest.fixture(autouse=True)
def attributes(monkeypatch):
    """A table of few classes, with cells that are missing and a shape that is not listed."""
    small, plain = bench.fields, bench.raw

    def fields(names=bench.FIELDS):
        table = modalities.make(
            "table",
            columns=list(COLUMNS),
            categories={c: list(own) for c, own in CODES.items()},
            mean=[Duet.mean, 0.0, 0.0, Duet.mean],
            std=[Duet.std, 1.0, 1.0, Duet.std],
            patch=PATCH[0],
        )
        return {n: table if n == "facts" else m for n, m in small(tuple(names)).items()}

    def raw(field, rng: np.random.Generator):
        if field != "facts":
            return plain(field, rng)
        cells = {
            "age": float(rng.integers(0, 2)) if rng.random() < 0.9 else None,
            "colour": str(rng.choice(["red", "blue"])) if rng.random() < 0.7 else None,
            "shape": str(rng.choice(["disc", "ring", "star"])) if rng.random() < 0.5 else None,
            "size": float(rng.integers(0, 2)) if rng.random() < 0.3 else None,
        }
        return cells if any(v is not None for v in cells.values()) else {"age": 1.0}

    monkeypatch.setattr(bench, "fields", fields)
    monkeypatch.setattr(bench, "raw", raw)


PATCH = [1]
"""Columns of a token."""


def hold(fields=PICTURES, rows=12, **options):
    options = {"prompt_probability": 0.7, "classes": 0.05} | options
    reference = type("Duet", (Duet,), options | {"patch": PATCH[0]})
    views = {f: ("plain",) if f == "facts" else ("weak",) for f in fields}
    golden("duet", reference, views=views, fields=fields, rows=rows, **options)


@pytest.mark.parametrize("which", ["class", "mask", "regress", "contrast", "classes"])
def test_two_steps_of_each_loss(which):
    weights = dict.fromkeys(("mask", "regress", "contrast", "classes"), 0.0)
    hold(**(weights | ({which: 1.0} if which != "class" else {})), rows=16)


@pytest.mark.parametrize("fields", [PICTURES, ("facts", "picture", "words", "signal")])
def test_two_steps(fields):
    hold(fields)


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_probability": 1.0, "blank_probability": 0.0, "contrast": 1.0},
        {"prompt_probability": 1.0, "blank_probability": 1.0},
        {"prompt_probability": 0.0, "temperature": 0.5},
        {"prompt_probability": 1.0, "contrast": 1.0, "negatives": 1},
        {"prompt_probability": 1.0, "contrast": 1.0, "negatives": 9},
    ],
)
def test_two_steps_with_other_options(options):
    hold(rows=20, **options)


@pytest.mark.parametrize("columns", [2, 3])
def test_two_steps_with_groups_of_columns(columns, monkeypatch):
    """A token of two columns, of which one or both are there; or one token for all."""
    monkeypatch.setitem(globals(), "PATCH", [columns])
    hold(rows=16, prompt_probability=0.8, contrast=1.0)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows)


def test_two_steps_of_many_rows():
    """Of which most have a choice of rows of the same value, and of other ones."""
    hold(rows=60, prompt_probability=1.0, contrast=1.0, negatives=2)


def test_the_table_is_the_first_or_one_that_is_named():
    table = bench.fields(("facts",))["facts"]
    fields = {"shown": bench.fields(("picture",))["picture"], "one": table, "two": table}
    for named, expected in (("", "one"), ("two", "two")):
        page = methods.build("duet", Encoder(fields, size="nano"), attributes=named)
        assert page.prompts.field == expected


def test_nothing_is_counted_before_the_first_step():
    page = bench.method("duet", sources=PICTURES)
    page.on_step_end(Clock(1, 4))
    assert (page.prompts.count == 1).all()


def test_defaults():
    """The authors' for CUB; see the page on the weights of what is masked and contrasted."""
    assert defaults("duet") == {
        "attributes": "",
        "prompt_probability": 0.4,
        "blank_probability": 0.5,
        "mask": 0.4,
        "contrast": 0.003,
        "negatives": 4,
        "regress": 0.01,
        "classes": 0.05,
        "temperature": 0.05,
    }
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 3e-5, 0.0, (0.9, 0.999))
    assert (r.schedule, r.decay_rate, r.milestones) == ("step", 0.8, (1 / 3, 2 / 3))
    assert (r.warmup, r.clip, r.batch_size, r.epochs, r.resolution) == (0.0, 0.0, 70, 30.0, 224)
