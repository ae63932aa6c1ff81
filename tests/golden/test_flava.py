"""FLAVA, Singh et al. 2022, arXiv:2112.04482, section 3, and the authors' code: an encoder for each
field and one over all, a global contrast, masked modelling of single fields (MIM, MLM) and of several
(MMM), and matching (ITM)."""

import dataclasses
import itertools

import pytest
import torch
from torch.nn.functional import pad

from amodal import methods
from amodal.core import Column, Ragged, Recipe, name_code
from amodal.masking.by_layout import layout_mask
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep_units
from amodal.methods.masked.flava import PAPER_RECIPE
from amodal.objectives.matching import swap_partners
from tests.golden import harness
from tests.golden.harness import Reference, defaults, golden, unit
from tests.golden.transformers import block, gelu, linear, norm
from tests.methods.bench import batch, exact, method

PATCH, SIDE = 4, 8
"""Bytes of a token of a text, and pixels of a patch."""
LAYOUT = {"picture": "grid", "signal": "signal"}


class Flava(Reference):
    text, width, depth, codes, whole_words = "words", 16, 1, 6, False
    image, sequence, span, other = 0.38, 0.49, 10, 0.15
    mismatched, unimodal, temperature, max_scale = 0.5, "unpaired", 0.07, 100.0
    contrastive_weight = unimodal_weight = mmm_weight = itm_weight = 1.0

    def __init__(self, page):
        super().__init__(page)
        self.fields = list(self.encoder.fields)
        self.e = dict(self.encoder.named_parameters())
        self.blocks = sum(n.endswith("up.weight") for n in self.e if "trunks.words" in n)

    def check_start(self):
        d = self.encoder.width
        assert self.min_batch_size == 2
        assert f"pools.fused.trunk.blocks.{self.depth - 1}.up.weight" in self.e
        assert f"pools.fused.trunk.blocks.{self.depth}.up.weight" not in self.e
        self.assert_shapes(itm_head__0__weight=(d, d), itm_head__2__weight=(2, d))
        start = self.w["scale.log"].detach()
        assert torch.isclose(start, -torch.tensor(self.temperature).double().log(), rtol=1e-6)
        for f in self.fields:
            assert self.e[f"heads.{f}.weight"].shape == (self.width, d)
            assert 0.01 < self.w[f"masks.{f}"].std() < 0.03  # as BERT's weights
            if self.codes and f in LAYOUT:
                assert len(self.w[f"codebooks.{f}.centres"]) == self.codes
                assert not self.w[f"codebooks.{f}.centres"].requires_grad

    def losses(self, batch):
        content = self.encoder.patchify(batch)
        self.texts = batch[self.text].values.split()
        hidden = {f: self.hidden(f, t, batch.seeds) for f, t in content.items()}
        rows = {f: sorted(set(t.row.tolist())) for f, t in content.items()}
        masked = {f: {} for f in self.fields}
        for f, t in content.items():
            shown = torch.where(hidden[f][:, None], self.w[f"masks.{f}"], t.x)
            placed = self.encoder.add_positions(t.with_x(shown))
            for r in rows[f]:
                masked[f][r] = self.trunk(f, placed.x[placed.row == r])
        with_more = [r for r in range(batch.size) if sum(r in masked[f] for f in self.fields) > 1]
        terms = self.contrast(batch)
        fused = {
            r: self.fuse({f: masked[f][r] for f in self.fields if r in masked[f]})
            for r in with_more
        }
        for kind, heads in (("unimodal", "unimodal_heads"), ("mmm", "mmm_heads")):
            for f in self.fields:
                total, count = 0 * self.w[f"{heads}.{f}.hidden.bias"].sum(), 0
                for r in rows.get(f, ()):
                    if kind == "mmm" and r not in fused:
                        continue
                    if kind == "unimodal" and self.unimodal == "unpaired" and r in with_more:
                        continue
                    x = fused[r][1][f] if kind == "mmm" else masked[f][r]
                    at = hidden[f][content[f].row == r]
                    each = self.guess(f"{heads}.{f}", f, x[1:], batch, r)
                    for t in at.nonzero()[:, 0].tolist():
                        total, count = total + each[t], count + 1
                weight = self.mmm_weight if kind == "mmm" else self.unimodal_weight
                terms[f"{kind}/{f}"] = weight * total / max(count, 1)
        terms[f"itm/{self.text}"] = self.itm_weight * self.matching(batch, masked, with_more)
        return terms

    # encoders

    def trunk(self, field, x):
        x = torch.cat([self.e[f"pools.{field}.token"][None], x])
        for i in range(self.blocks):
            x = block(self.e, f"trunks.{field}.blocks.{i}", x, self.encoder.num_heads)
        return norm(self.e, f"trunks.{field}.norm", x)

    def fuse(self, of_fields):
        """Section 3.1: a linear map of each field's states, and a class token before them."""
        parts = {f: linear(self.e, f"pools.fused.projections.{f}", x) for f, x in of_fields.items()}
        x = torch.cat([self.e["pools.fused.cls.token"][None], *parts.values()])
        for i in range(self.depth):
            x = block(self.e, f"pools.fused.trunk.blocks.{i}", x, self.encoder.num_heads)
        x = norm(self.e, "pools.fused.trunk.norm", x)
        of_fields = x[1:].split([len(p) for p in parts.values()])
        return x[0], dict(zip(parts, of_fields))

    # masked modelling

    def hidden(self, field, tokens, seeds):
        """Blocks of an image, 15 % of a text; of whole words if asked for, as the authors do."""
        if self.whole_words and field == self.text:
            bits = hash_bits(seeds, name_code(field))[tokens.row]
            word = [
                bytes(text[:i].tolist()).count(b" ")
                for text in self.texts
                for i in range(0, len(text), PATCH)
            ]
            return ~random_keep_units(tokens.row, bits, torch.tensor(word), self.other)
        return layout_mask(
            LAYOUT.get(field, "other"),
            tokens,
            seeds,
            image=self.image,
            sequence=self.sequence,
            span=self.span,
            other=self.other,
        )

    def guess(self, name, field, x, batch, row):
        """The loss of each token of a row, hidden or not."""
        x = norm(self.w, f"{name}.norm", gelu(linear(self.w, f"{name}.hidden", x)))
        column = batch[field]
        at = column.rows.tolist().index(row)
        if field == self.text:
            return [
                self.bytes_loss(linear(self.w, f"{name}.out.0", y), column.values.split()[at], t)
                for t, y in enumerate(x)
            ]
        values = self.patches(column.values[at]) if field == "picture" else self.samples(column, at)
        out = linear(self.w, f"{name}.out", x)
        if not self.codes:
            return [((y - value) ** 2).mean() for y, value in zip(out, values)]
        centres = self.w[f"codebooks.{field}.centres"]
        losses = []
        for y, value in zip(out, values):
            code = ((centres - value) ** 2).sum(1).argmin()
            losses.append(y.logsumexp(0) - y[code])
        return losses

    def bytes_loss(self, logits, text, t):
        piece = text[PATCH * t : PATCH * t + PATCH].tolist()
        logits = logits.view(PATCH, -1)
        each = [logits[k].logsumexp(0) - logits[k, b] for k, b in enumerate(piece)]
        return sum(each) / len(each)

    def patches(self, image):
        pixels = (image.double() - 0.5) / 0.25
        x = torch.stack(
            [
                pixels[:, i : i + SIDE, j : j + SIDE].flatten()
                for i in range(0, image.shape[1], SIDE)
                for j in range(0, image.shape[2], SIDE)
            ]
        )
        if self.codes:
            return x
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-6).sqrt()

    def samples(self, column, position):
        series = self.encoder.fields["signal"]
        mean, std = (torch.tensor(v).double() for v in series.scale())
        x = (column.values.split()[position].double() - mean) / std
        return pad(x, (0, 0, 0, -len(x) % series.patch)).reshape(-1, series.patch * x.shape[1])

    # contrast and matching

    def contrast(self, batch):
        """Whole values; scales between 1 and 100."""
        z, terms = self.encoder(batch).columns, {}
        pairs = list(itertools.combinations(self.fields, 2))
        for a, b in pairs:
            one, other = (
                {r: unit(v) for r, v in zip(z[f].rows.tolist(), z[f].values)} for f in (a, b)
            )
            rows = [r for r in one if r in other]
            total = 0 * self.w["scale.log"]
            for r in rows:
                for x, y in ((one, other), (other, one)):
                    logits = torch.stack([x[r] @ y[k] for k in rows]) * self.scale()
                    total = total + logits.logsumexp(0) - logits[rows.index(r)]
            terms[f"info_nce/{a}~{b}"] = (
                self.contrastive_weight * total / 2 / max(len(rows), 1) / len(pairs)
            )
        return terms

    def scale(self):
        log = self.w["scale.log"]
        bound = min(max(float(log.detach().exp()), 1.0), self.max_scale)
        if bound != float(log.detach().exp()):
            return bound * (log - log.detach()).exp()
        return log.exp()

    def matching(self, batch, masked, with_more):
        """Of some rows another text is read; the class token says whether a row belongs together."""
        rows = [r for r in with_more if r in masked[self.text]]
        column = batch[self.text]
        texts = {r: tuple(v.tolist()) for r, v in zip(column.rows.tolist(), column.values.split())}
        seen = list(dict.fromkeys(texts[r] for r in rows))
        partner = swap_partners(
            hash_bits(batch.seeds[rows], name_code("itm")),
            self.mismatched,
            group_N=torch.tensor([seen.index(texts[r]) for r in rows], dtype=torch.int64),
        ).tolist()
        total = 0 * self.w["itm_head.2.bias"].sum()
        for i, r in enumerate(rows):
            swapped = {f: masked[f][r] for f in self.fields if r in masked[f]}
            swapped[self.text] = masked[self.text][rows[partner[i]]]
            first = self.fuse(swapped)[0]
            y = linear(self.w, "itm_head.2", linear(self.w, "itm_head.0", first).tanh())
            total = total + y.logsumexp(0) - y[int(partner[i] == i)]
        return total / max(len(rows), 1)


VIEWS = {"picture": ("weak",), "words": ("plain",), "signal": ("weak",)}
SINGLE = 1e-6
"""The scale of a signal is in single precision."""


def steps(fields=("picture", "words"), rows=6, tolerance=1e-9, **changed):
    reference = type("Flava", (Flava,), {n: v for n, v in changed.items() if n != "text_field"})
    options = {"mismatched": 0.5, "unimodal": "unpaired"} | changed
    golden(
        "flava",
        reference,
        views={f: VIEWS[f] for f in fields},
        fields=fields,
        rows=rows,
        tolerance=tolerance,
        also=options,
    )


def test_a_row_is_its_multimodal_class_token():
    """Section 3.1: of whole values, of one field or of several."""
    sources = ("picture", "words")
    page = exact(method("flava", sources=sources, depth=2)).eval()
    reference = type("Flava", (Flava,), {"depth": 2})(page)
    rows = exact(batch(page.views, sources=sources))
    tokens, found = page.encoder.tokenize(rows), page.encoder.features(rows)["fused"]
    assert found.rows.tolist() == list(range(8))
    for r, vector in enumerate(found.values):
        parts = {f: tokens[f].x[tokens[f].row == r] for f in sources}
        states = {f: reference.trunk(f, x) for f, x in parts.items() if len(x)}
        torch.testing.assert_close(vector, reference.fuse(states)[0])


def test_defaults():
    """75 of 196 patches, 15 % of a text, one mismatch in ten: the authors' configuration. Their
    multimodal encoder has 6 blocks, and all weights are one."""
    assert defaults("flava") == {
        "text_field": "",
        "width": 512,
        "depth": 6,
        "codes": 512,
        "codebook": "",
        "image": 0.38,
        "sequence": 0.49,
        "span": 10,
        "other": 0.15,
        "whole_words": False,
        "mismatched": 0.1,
        "unimodal": "unpaired",
        "contrastive_weight": 1.0,
        "unimodal_weight": 1.0,
        "mmm_weight": 1.0,
        "itm_weight": 1.0,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    page = exact(method("flava", sources=("picture", "words"), width=32, depth=6, codes=9))
    type("Flava", (Flava,), {"width": 32, "depth": 6, "codes": 9})(page).check_start()


def test_recipe():
    """Table A.1. Pairs are .7 of the batches, in which they have 150,000 steps; the authors learn
    from 70 million pairs."""
    assert PAPER_RECIPE == Recipe(
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.1,
        betas=(0.9, 0.999),
        schedule="cosine",
        warmup_steps=10_000,
        clip=0.0,
        batch_size=8192,
        steps=214_000,
        resolution=224,
    )
    assert PAPER_RECIPE.steps == round(150_000 / 0.7, -3)
    assert methods.paper_records("flava") == 50_000_000
    assert methods.encoder_options("flava") == {"pool": "cls"}


@pytest.mark.parametrize("fields", [("picture", "words"), ("words", "picture")])
@pytest.mark.parametrize("unimodal", ["unpaired", "all"])
def test_two_steps(fields, unimodal):
    steps(fields, unimodal=unimodal)


@pytest.mark.parametrize("codes", [6, 0])
def test_two_steps_of_three_fields(codes):
    """Rows with one field of three come with rows of two and of three."""
    steps(("picture", "words", "signal"), rows=9, codes=codes, unimodal="all", tolerance=SINGLE)


@pytest.mark.parametrize(
    "options",
    [
        {"contrastive_weight": 0.3, "unimodal_weight": 0.6, "mmm_weight": 0.2, "itm_weight": 0.7},
        {"image": 0.7, "other": 0.4, "mismatched": 0.9, "depth": 2, "width": 8, "codes": 4},
        {"whole_words": True, "other": 0.4, "text_field": "words"},
        {"temperature": 0.3, "mismatched": 0.0},
        {"temperature": 2.0},
        {"temperature": 0.015, "max_scale": 20.0},
    ],
)
def test_two_steps_with_other_options(options):
    steps(unimodal="all", **options)


def test_two_steps_with_spans():
    fields = ("words", "signal")
    steps(fields, sequence=0.3, span=2, unimodal="all", tolerance=SINGLE)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_little_to_compare(rows):
    """One row has a text alone; of two, one has both."""
    steps(rows=rows)


def test_equal_texts_do_not_stand_for_each_other(monkeypatch):
    """A row whose text another row has as well is not called a mismatch with that row."""

    def alike(*args, **options):
        made = batch(*args, **(options | {"patchy": False}))
        text = made["words"].values
        twice = Ragged.of([text.split()[0] if i % 2 else t for i, t in enumerate(text.split())])
        return dataclasses.replace(
            made, columns=made.columns | {"words": Column(twice, made["words"].rows)}
        )

    monkeypatch.setattr(harness, "batch", alike)
    steps(mismatched=0.99)
