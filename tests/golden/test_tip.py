"""TIP, Du et al. 2024, arXiv:2407.07582: section 3.2, and the authors' three losses."""

import itertools

import numpy as np
import pytest
import torch

from amodal import modalities
from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.random import random_keep
from amodal.methods.missing_modality.tip import PAPER_RECIPE
from tests.golden.harness import Reference, common, defaults, golden, unit
from tests.golden.naive import code
from tests.golden.transformers import linear, norm, read_block
from tests.methods import bench

HEADS = 2
COLOURS = ("red", "blue", "green")
SHAPES = ("round", "square")
COLUMNS = ("age", "colour", "weight", "shape", "height")


class TIP(Reference):
    match, fill, ratio, temperature, depth, width, table = 1.0, 1.0, 0.5, 0.1, 4, 128, "facts"

    def check_start(self):
        """Projectors of SimCLR, an interaction of `depth` blocks, learned tokens small."""
        d = self.encoder.width
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        for name, head in self.encoder.heads.items():
            shapes = [(n, tuple(p.shape)) for n, p in head.named_parameters()]
            expected = [("0.weight", (d, d)), ("0.bias", (d,)), ("2.weight", (self.width, d))]
            assert shapes == expected, name
        fused = self.fused_weights()
        assert f"cross.blocks.{self.depth - 1}.up.weight" in fused
        assert f"cross.blocks.{self.depth}.up.weight" not in fused
        assert 0.01 < fused["cls"].std() < 0.04
        assert "masked.token" not in self.w or 0.01 < self.w["masked.token"].std() < 0.04
        assert ("match_head.weight" in self.w) == bool(self.match)
        assert ("masked.token" in self.w) == bool(self.fill)

    def fused_weights(self):
        """Those of the interaction module, which the encoder has as its pool of all fields."""
        return dict(self.encoder.pools["fused"].named_parameters())

    def losses(self, batch):
        """A third of each; with more fields all are contrasted with each other."""
        content = self.encoder.patchify(batch)
        tokens = {s: self.lists(self.encode(s, t)) for s, t in content.items()}
        z = self.encoder(batch).columns
        others = [s for s in content if s != self.table]
        terms = {}
        pairs = list(itertools.combinations(self.encoder.fields, 2))
        for a, b in pairs:
            terms[f"contrast/{a}~{b}"] = self.contrast(z, a, b) / 3 / len(pairs)
        for s in others:
            if self.match:
                loss = self.matching(z, tokens, s, batch.seeds) / len(others)
                terms[f"match/{s}"] = self.match * loss / 3
        if self.fill:
            hidden, seen = self.masked(content[self.table], batch)
            for s in others:
                loss = self.filled(seen, hidden, tokens[s], batch) / len(others)
                terms[f"reconstruct/{s}"] = self.fill * loss / 3
        return terms

    def encode(self, source, content):
        return self.encoder.encode({source: self.encoder.add_positions(content)})[source]

    def lists(self, tokens):
        """Row -> its tokens."""
        return {r: tokens.x[tokens.row == r] for r in sorted(set(tokens.row.tolist()))}

    def nothing(self):
        return 0 * self.fused_weights()["cls"].sum()

    # image-tabular contrast

    def contrast(self, z, a, b):
        image, table = (unit(x) for x in common(z, a, b))
        n = len(image)
        if n < 2:
            return 0 * (image.sum() + table.sum())
        logits = image @ table.T / self.temperature
        there = sum(logits[i].logsumexp(0) - logits[i, i] for i in range(n)) / n
        back = sum(logits[:, i].logsumexp(0) - logits[i, i] for i in range(n)) / n
        return (there + back) / 2

    # image-tabular matching

    def matching(self, z, tokens, s, seeds):
        """A pair that belongs together, and for each of both one that is hard to tell from it."""
        rows = [r for r in tokens[self.table] if r in tokens[s]]
        table, image = [tokens[self.table][r] for r in rows], [tokens[s][r] for r in rows]
        if not rows:
            return self.nothing()
        both = [unit(x).detach() for x in common(z, self.table, s)]
        pairs = [(i, i) for i in range(len(rows))]
        wrong = list(enumerate(self.negatives(both, f"{self.table}>{s}", seeds[rows])))
        back = self.negatives(both[::-1], f"{s}>{self.table}", seeds[rows])
        wrong += [(j, i) for i, j in enumerate(back)]
        wrong = [pair for pair in wrong if None not in pair]
        loss = 0
        for (i, j), same in [(p, True) for p in pairs] + [(p, False) for p in wrong]:
            cls = self.interact(table[i], image[j])[0]
            logit = linear(self.w, "match_head", cls)[0]
            # cross-entropy of two classes, of which the second one's logit is 0
            classes = torch.stack([logit, 0 * logit])
            loss = loss + classes.logsumexp(0) - classes[0 if same else 1]
        return loss / (len(pairs) + len(wrong))

    def negatives(self, both, name, seeds):
        """One of the others for each, by the softmax of all of them and a floor of 1e-4."""
        a, b = both
        chance = (a @ b.T / self.temperature).softmax(1) + 1e-4
        seeds, found = hash_bits(seeds, code(name)), []
        for i in range(len(a)):
            # the largest of logits plus Gumbel noise is a draw
            u = uniform(seeds[i], seeds).double() + 2.0**-25
            noisy = [chance[i, j].log() - (-u[j].log()).log() for j in range(len(a))]
            rest = [j for j in range(len(a)) if j != i]
            found.append(max(rest, key=lambda j: noisy[j]) if rest else None)
        return found

    def interact(self, cells, image):
        """The class token and cells read the image."""
        w = self.fused_weights()
        x = torch.cat([w["cls"][None], cells])
        y = norm(w, "cross.norm_keys", image)
        for i in range(self.depth):
            x = read_block(w, f"cross.blocks.{i}", x, y, HEADS)
        return norm(w, "cross.norm", x)

    # masked tabular reconstruction

    def masked(self, tokens, batch):
        """Row -> indices of hidden cells, and row -> tokens of all, of which some are hidden."""
        bits = hash_bits(batch.seeds, code(f"masked {self.table}"))[tokens.row]
        keep = random_keep(tokens.row, bits, tokens.within(), self.ratio)
        x = torch.where(keep[:, None], tokens.x, self.w["masked.token"])
        seen = self.lists(self.encode(self.table, tokens.with_x(x)))
        return {r: (~keep[tokens.row == r]).nonzero().flatten().tolist() for r in seen}, seen

    def filled(self, seen, hidden, image, batch):
        """The mean of the losses of categories and of numbers, each a mean over hidden cells."""
        column, kinds = batch[self.table], {}
        for r, values in zip(column.rows.tolist(), column.values):
            if r not in image:
                continue
            out = self.interact(seen[r], image[r])[1:]
            there = [c for c in range(len(values)) if not values[c].isnan()]
            for i in hidden[r]:
                guess = linear(self.w, "masked.predictor", out[i])
                kind, loss = self.cell(guess, there[i], values[there[i]])
                kinds.setdefault(kind, []).append(loss)
        if not kinds:
            return self.nothing()
        return sum(sum(losses) / len(losses) for losses in kinds.values()) / len(kinds)

    def cell(self, guess, c, value):
        """Squared error of a number in deviations; cross-entropy of a category among the codes of
        its column, of which the last is for those that were never seen."""
        table = self.encoder.fields[self.table]
        if not table.categories.get(table.columns[c]):
            mean, std = (torch.tensor(x[c], dtype=torch.float64) for x in table.scale())
            return "numbers", (guess[c] - (value - mean) / std) ** 2
        first = len(table.columns)
        for before in table.columns[:c]:
            first += self.codes(table, before)
        logits = guess[first : first + self.codes(table, table.columns[c])]
        return "categories", logits.logsumexp(0) - logits[int(value)]

    def codes(self, table, column):
        known = table.categories.get(column)
        return len(known) + 1 if known else 0


def table_row(rng):
    return {
        "age": float(rng.normal(3, 2)),
        "colour": str(rng.choice(COLOURS)),
        "weight": float(rng.normal()) if rng.random() < 0.7 else None,
        "shape": str(rng.choice(SHAPES)) if rng.random() < 0.7 else None,
        "height": float(rng.normal(-1, 0.5)),
    }


@pytest.fixture(autouse=True)
def a_larger_table(monkeypatch):
    """Of five columns, with cells that are missing."""
    small, draw = bench.fields, bench.raw
    rng = np.random.default_rng(0)
    table = modalities.kind("table").infer([table_row(rng) for _ in range(20)])

    def fields(names=bench.FIELDS):
        return {n: table if n == "facts" else m for n, m in small(tuple(names)).items()}

    monkeypatch.setattr(bench, "fields", fields)
    monkeypatch.setattr(
        bench, "raw", lambda field, rng: table_row(rng) if field == "facts" else draw(field, rng)
    )


def hold(fields=("picture", "facts"), rows=6, views=None, **options):
    options = {"width": 8} | options
    reference = type("TIP", (TIP,), options)
    views = views or {f: ("plain",) if f == "facts" else ("strong",) for f in fields}
    golden("tip", reference, views=views, fields=fields, rows=rows, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"match": 0.4, "fill": 2.0, "temperature": 0.5, "ratio": 0.3},
        {"match": 0.0, "depth": 1},
        {"fill": 0.0, "temperature": 0.03},
        {"fill": 0.0, "temperature": 0.005},
        {"ratio": 0.8, "width": 16, "depth": 2},
    ],
)
def test_two_steps(options):
    hold(**options)


@pytest.mark.parametrize("match", [0.0, 1.0])
def test_two_steps_of_three_fields(match):
    hold(("picture", "words", "facts"), rows=8, match=match)


class OfPatches(TIP):
    """The table is a picture, whose cells are patches; all their losses are of one kind."""

    def filled(self, seen, hidden, image, batch):
        column, losses = batch[self.table], []
        for r, pixels in zip(column.rows.tolist(), (column.values.double() - 0.5) / 0.25):
            if r not in image:
                continue
            out = self.interact(seen[r], image[r])[1:]
            for i in hidden[r]:
                y, x = 8 * (i // 2), 8 * (i % 2)
                patch = pixels[:, y : y + 8, x : x + 8].flatten()
                patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
                guess = linear(self.w, "masked.predictor", out[i])
                losses.append(((guess - patch) ** 2).mean())
        return sum(losses) / len(losses)


def test_any_field_may_take_the_part_of_the_table():
    views = {"picture": ("plain",), "facts": ("weak",)}
    options = {"table": "picture", "ratio": 0.4, "width": 8}
    reference = type("OfPatches", (OfPatches,), options)
    golden("tip", reference, views=views, fields=tuple(views), **options, also={"view": "weak"})


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows)


def test_defaults():
    """The authors' configuration for DVM cars."""
    assert defaults("tip") == {
        "table": "",
        "match": 1.0,
        "fill": 1.0,
        "ratio": 0.5,
        "width": 128,
        "temperature": 0.1,
        "depth": 4,
        "corruption": 0.3,
        "view": "strong",
    }
    hold(width=128)
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 3e-4, 1.5e-6, (0.9, 0.999))
    assert (r.schedule, r.warmup_epochs, r.clip) == ("cosine", 10.0, 0.0)
    assert (r.batch_size, r.epochs, r.resolution) == (256, 500.0, 128)
