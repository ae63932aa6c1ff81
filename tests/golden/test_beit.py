"""BEiT, Bao et al. 2022, arXiv:2106.08254, sections 2.1 to 2.4, and the authors' program, unilm/beit.
Its tokenizer is in vq_vae.py."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from amodal import methods, modalities
from amodal.core import Ragged, Recipe
from amodal.masking.by_layout import layout_mask
from amodal.methods.masked.beit import PAPER_RECIPE
from tests.golden.harness import Reference, defaults, golden
from tests.golden.transformers import linear, mlp, norm
from tests.golden.vq_vae import Tokenizer
from tests.methods.bench import exact, method

LETTERS = 4
"""Bytes of a token of a text."""
LAYOUT = {"picture": "grid", "photo": "grid", "signal": "signal"}
SINGLE = 1e-6
"""The scale of a signal is in single precision."""


class Beit(Tokenizer, Reference):
    tokenizer, tokenizer_share = "vq", 0.2
    image, sequence, span, other, layer_scale = 0.4, 0.49, 10, 0.15, 0.1
    stage, trunk, reach, pool = 1, "separate", 32, "mean"

    def __init__(self, page):
        page.on_stage_start(self.stage if self.tokenizer == "vq" else 0)
        super().__init__(page)
        self.page, self.fields = page, list(self.encoder.fields)
        self.e = dict(self.encoder.named_parameters())
        self.learned = [f for f in self.fields if f"books.{f}.quantizer.vectors" in self.w]
        self.latents = {}

    def check_start(self):
        assert self.min_batch_size == 1
        pictures = [f for f in self.fields if LAYOUT.get(f) == "grid"]
        assert self.learned == (pictures if self.tokenizer == "vq" else [])
        assert self.page.stages == ((self.tokenizer_share, 1.0) if self.learned else (1.0,))
        learns = {n.split(".")[0] for n, p in self.page.named_parameters() if p.requires_grad}
        tokenizing = self.learned and self.stage == 0
        assert learns == ({"books"} if tokenizing else {"encoder", "masks", "heads"})
        assert self.encoder.trunk == self.trunk
        gains = [p for n, p in self.e.items() if n.endswith((".scale1.gain", ".scale2.gain"))]
        assert len(gains) == (2 * self.blocks() * len(self.encoder.trunks)) * (self.layer_scale > 0)
        start = torch.tensor(self.layer_scale).double()  # in single precision at first
        assert all(torch.equal(p, start.expand(len(p))) for p in gains)
        side = 2 * self.reach - 1
        assert self.e["relative.plane"].shape == (self.encoder.num_heads, side, side)
        assert self.e["relative.line"].shape == (self.encoder.num_heads, side)
        assert not self.e["relative.plane"].any() and not self.e["relative.line"].any()
        for f in self.fields:
            assert 0.01 < self.w[f"masks.{f}"].std() < 0.03
            if f in LAYOUT:
                assert self.w[f"heads.{f}.weight"].shape == (self.codes, self.encoder.width)
        for f in self.learned:
            self.begin(f)

    def blocks(self):
        part = next(iter(self.encoder.trunks))
        return sum(n.startswith(f"trunks.{part}.") and n.endswith("up.weight") for n in self.e)

    def losses(self, batch):
        if self.learned and self.stage == 0:
            return self.tokenizer_losses(batch)
        content = self.encoder.patchify(batch)
        hidden = {f: self.hide(f, t, batch.seeds) for f, t in content.items()}
        states = self.states(content, hidden, batch.size)
        terms = {}
        for f in content:
            values = batch[f].values
            values = values.split() if isinstance(values, Ragged) else values
            total, count = 0 * self.w[f"masks.{f}"].sum(), 0
            for r, value in zip(batch[f].rows.tolist(), values):
                at = (content[f].row == r).nonzero()[:, 0]
                each = self.guess(f, states[f][r], value)
                for t in hidden[f][at].nonzero()[:, 0].tolist():
                    total, count = total + each[t], count + 1
            terms[f"codes/{f}"] = total / max(count, 1) / len(content)
        return terms

    # masks

    def hide(self, field, tokens, seeds):
        """Section 2.3: blocks of a picture, 40 % of it."""
        shares = {"image": self.image, "sequence": self.sequence, "other": self.other}
        return layout_mask(LAYOUT.get(field, "other"), tokens, seeds, span=self.span, **shares)

    # encoder

    def states(self, content, hidden, size):
        """Field -> row -> last states: a learned token stands in place of each hidden patch."""
        found = {f: {} for f in content}
        together = [list(content)] if self.trunk == "joint" else [[f] for f in content]
        for names in together:
            for r in range(size):
                parts, places = [], []
                if self.pool == "cls" and any((content[f].row == r).any() for f in names):
                    parts.append(self.e[f"pools.{names[0]}.token"])
                    places.append(("class", 0.0, 0.0, 0.0))
                for f in names:
                    at = (content[f].row == r).nonzero()[:, 0].tolist()
                    for t in at:
                        x = self.w[f"masks.{f}"] if hidden[f][t] else content[f].x[t]
                        parts.append(x + self.e[f"field_token.{f}"])
                        places.append((f, *content[f].position[t].tolist()))
                if not parts:
                    continue
                name = "all" if self.trunk == "joint" else names[0]
                x = self.transform(f"trunks.{name}", torch.stack(parts), places)
                for f in names:
                    found[f][r] = x[[i for i, place in enumerate(places) if place[0] == f]]
        return found

    def transform(self, name, x, places):
        bias, heads = self.bias(places), self.encoder.num_heads
        for i in range(self.blocks()):
            block = f"{name}.blocks.{i}"
            q, k, v = linear(
                self.e, f"{block}.attention.qkv", norm(self.e, f"{block}.norm1", x)
            ).chunk(3, 1)
            made = []
            for h, (a, b, c) in enumerate(zip(*(z.chunk(heads, 1) for z in (q, k, v)))):
                made.append(torch.softmax(a @ b.T / math.sqrt(a.shape[1]) + bias[h], 1) @ c)
            added = linear(self.e, f"{block}.attention.out", torch.cat(made, 1))
            x = x + self.gain(f"{block}.scale1") * added
            x = x + self.gain(f"{block}.scale2") * mlp(
                self.e, block, norm(self.e, f"{block}.norm2", x)
            )
        return norm(self.e, f"{name}.norm", x)

    def gain(self, name):
        """The program's gamma_1 and gamma_2."""
        return self.e[f"{name}.gain"] if self.layer_scale else 1.0

    def bias(self, places):
        """Numbers that all blocks share, one for each difference of places; 0 between fields."""
        last = self.reach - 1

        def number(difference):
            assert difference == int(difference)
            return int(min(max(difference, -last), last)) + last

        plane, line = self.e["relative.plane"], self.e["relative.line"]
        rows = []
        for f, t, y, x in places:
            row = []
            for g, s, v, u in places:
                both = plane[:, number(y - v), number(x - u)] + line[:, number(t - s)]
                row.append(both if f == g != "class" else 0 * both)
            rows.append(torch.stack(row, 1))
        return torch.stack(rows, 1)

    # what is predicted

    def guess(self, field, states, value):
        """The loss of each token of a row, hidden or not."""
        if field == "words":
            losses = []
            for t, y in enumerate(linear(self.w, "heads.words.0", states).unflatten(1, (4, -1))):
                piece = value[LETTERS * t : LETTERS * t + LETTERS].tolist()
                each = [row.logsumexp(0) - row[byte] for row, byte in zip(y, piece)]
                losses.append(sum(each) / len(each))
            return losses
        out = linear(self.w, f"heads.{field}", states)
        if field == "facts":  # a number, or one of three codes
            (mean, _), (std, _) = self.encoder.fields[field].scale()
            cells = [(c, x) for c, x in enumerate(value.tolist()) if x == x]
            return [
                (y[0] - (x - mean) / std) ** 2 if c == 0 else y[2:].logsumexp(0) - y[2 + int(x)]
                for y, (c, x) in zip(out, cells)
            ]
        codes = self.code_numbers(field, value)
        assert len(codes) == len(out)
        return [y.logsumexp(0) - y[code] for y, code in zip(out, codes)]

    def code_numbers(self, field, value):
        """Section 2.1: the number of each token in the vocabulary of the tokenizer."""
        if field in self.learned:
            latents, _ = self.encode(field, self.standard_one(field, value))
            return [self.nearest(field, x) for x in latents.detach()]
        centres = self.w[f"books.{field}.centres"]
        pieces = self.samples(value) if field == "signal" else self.patches(field, value)
        return [int(((centres - x) ** 2).nansum(1).argmin()) for x in pieces]

    def samples(self, value):
        series = self.encoder.fields["signal"]
        mean, std = (torch.tensor(v).double() for v in series.scale())
        x = (value.double() - mean) / std
        x = pad(x, (0, 0, 0, -len(x) % series.patch), value=math.nan)  # which does not count
        return list(x.reshape(-1, series.patch * 2))


SMALL = {"codes": 6, "hidden": 6, "code_width": 4}
CENTRES = {"codes": 6, "tokenizer": "kmeans"}


def steps(fields=("picture", "words"), rows=6, tolerance=1e-9, **changed):
    changed = {"tokenizer": "vq", **changed}
    golden(
        "beit",
        type("Beit", (Beit,), changed),
        views=("weak",),
        fields=fields,
        rows=rows,
        tolerance=tolerance,
        also={
            n: v for n, v in changed.items() if n not in ("stage", "trunk", "reach", "pool", "used")
        },
    )


# codes by centres


@pytest.mark.parametrize("fields", [("picture",), ("picture", "words"), ("facts", "picture")])
def test_two_steps_with_centres(fields):
    steps(fields, **CENTRES)


def test_two_steps_with_signals():
    steps(("words", "signal"), tokenizer="kmeans", codes=9, tolerance=SINGLE)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_two_steps_of_few_rows(rows):
    """One row has no picture, and of two or three not all have a text of two tokens."""
    steps(("picture", "words"), rows=rows, **CENTRES)


@pytest.mark.parametrize("positions, reach", [("relative", 32), ("relative:2", 2)])
def test_two_steps_of_all_fields_in_one_trunk(positions, reach, other_encoder):
    """A field is not placed beside another; what is farther than the table has its last number."""
    other_encoder(trunk="joint", positions=positions)
    fields = ("picture", "words", "signal")
    steps(fields, trunk="joint", reach=reach, tolerance=SINGLE, **CENTRES)


def test_two_steps_with_a_class_token(other_encoder, larger_pictures):
    """As the paper's; it is beside all patches alike, where the program learns three numbers."""
    other_encoder(positions="relative", pool="cls")
    steps(pool="cls", **CENTRES)


@pytest.mark.parametrize("reach", [2, 3])
def test_two_steps_of_places_beyond_the_table(reach, other_encoder, larger_pictures):
    other_encoder(positions=f"relative:{reach}")
    steps(("picture", "words"), reach=reach, **CENTRES)


@pytest.mark.parametrize(
    "options",
    [
        {"image": 0.7, "other": 0.5, "layer_scale": 0.0},
        {"image": 0.2, "other": 0.9, "layer_scale": 1e-5, "codes": 3},
    ],
)
def test_two_steps_with_other_options(options, larger_pictures):
    steps(**(CENTRES | options))


def test_two_steps_with_spans():
    steps(("words", "signal"), sequence=0.3, span=2, tolerance=SINGLE, **CENTRES)


def test_two_steps_with_longer_tokens_of_signals(other_fields):
    """The last one of a signal is not whole, and what it lacks does not count."""
    rng = np.random.default_rng(0)
    series = modalities.kind("series").infer([rng.normal(size=(20, 2)) for _ in range(8)])
    other_fields(signal=dataclasses.replace(series, patch=3))
    steps(("signal",), tolerance=SINGLE, **CENTRES)


# codes by a tokenizer that learns first


@pytest.mark.parametrize("fields", [("picture",), ("words", "picture")])
@pytest.mark.parametrize("stage", [0, 1])
def test_two_steps_with_the_tokenizer(fields, stage):
    steps(fields, stage=stage, **SMALL)


@pytest.mark.parametrize("layer_scale", [0.0, 0.1])
def test_two_steps_with_codes_of_the_tokenizer(layer_scale, larger_pictures):
    steps(layer_scale=layer_scale, **SMALL)


def test_two_steps_with_codes_of_the_tokenizer_beside_centres(other_encoder):
    other_encoder(trunk="joint", positions="relative")
    steps(("signal", "picture"), trunk="joint", tolerance=SINGLE, **SMALL)


@pytest.mark.parametrize(
    "options",
    [
        {"commitment": 2.0},
        {"commitment": 0.0, "tokenizer_share": 0.5},
        {"hidden": 64, "code_width": 32},
        {"hidden": 3, "code_width": 1},
    ],
)
def test_two_steps_of_the_tokenizer(options):
    steps(stage=0, **(SMALL | options))


@pytest.mark.parametrize("codes, rows", [(16, 1), (4, 2), (2, 4), (16, 9)])
def test_two_steps_of_few_and_of_many_codes(codes, rows):
    """Of one row there is no picture; of two there are four vectors."""
    steps(("picture",), rows, stage=0, **(SMALL | {"codes": codes}))


@pytest.mark.parametrize("rows", [1, 6])
def test_two_steps_of_a_tokenizer_with_codes_of_no_use(rows):
    """The second is set anew after the first step, and the last after the other."""
    used = (3.0, 0.0098, 0.5, 1.0, 0.02, 0.0102)
    steps(("picture",), rows, stage=0, used=used, **(SMALL | {"code_width": 8}))


@pytest.mark.parametrize("stage", [0, 1])
def test_two_steps_of_two_fields_of_pictures(stage, other_fields):
    """A token of the one is 2 by 3 pixels each way, and of the other 3; theirs are measured."""
    scale = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    picture = modalities.make("image", size=12, channels=3, patch=6)
    photo = modalities.make("image", size=9, channels=3, patch=3)
    other_fields(picture=dataclasses.replace(picture, **scale), photo=photo)
    steps(("photo", "words", "picture"), stage=stage, tolerance=SINGLE, **SMALL)


# numbers


def test_defaults():
    """40 % of a picture: section 2.3; 15 % of a text: BERT. 0.1: the program's init_values. 0.25:
    VQ-VAE, section 3.2."""
    assert defaults("beit") == {
        "codes": 512,
        "tokenizer": "vq",
        "tokenizer_share": 0.2,
        "codebook": "",
        "commitment": 0.25,
        "code_width": 32,
        "hidden": 64,
        "image": 0.4,
        "sequence": 0.49,
        "span": 10,
        "other": 0.15,
        "layer_scale": 0.1,
    }
    every = {"codes": 512, "tokenizer": "vq"}
    page = exact(method("beit", sources=("picture", "words", "signal"), **every))
    type("Beit", (Beit,), every | {"stage": 0})(page).check_start()
    assert methods.encoder_options("beit") == {"positions": "relative"}


def test_recipe():
    """The paper's table of settings for ImageNet-1K, of 1.28 million pictures."""
    assert PAPER_RECIPE == Recipe(
        optimizer="adamw",
        lr=1.5e-3,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        schedule="cosine",
        warmup_epochs=10.0,
        clip=3.0,
        drop_path=0.1,
        batch_size=2048,
        epochs=800.0,
        resolution=224,
    )
    assert methods.paper_records("beit") == 1_000_000
