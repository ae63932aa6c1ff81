"""CoCa, Yu et al. 2022, arXiv:2205.01917, section 3.2: attentional poolers, a text decoder cut in two,
the contrastive loss (equation 2), captioning (equation 3) and their sum (equation 4)."""

import inspect
import itertools

import pytest
import torch
from torch.nn.functional import softplus

from amodal import methods
from amodal.core import Recipe
from amodal.methods.contrastive import coca
from amodal.methods.contrastive.coca import PAPER_RECIPE
from tests.golden.harness import Reference, defaults, golden, unit
from tests.golden.transformers import attend, block, linear, mlp, norm
from tests.methods.bench import batch, exact, method

PATCH = 4
"""Bytes of a token of the bench's texts."""


class CoCa(Reference):
    text, width, queries, cascade, depth = "words", 16, 3, True, 0
    contrastive_weight, caption_weight, temperature, max_scale = 1.0, 2.0, 0.07, 100.0

    def __init__(self, page):
        super().__init__(page)
        self.e = dict(self.encoder.named_parameters())
        self.blocks = sum(n.endswith("up.weight") for n in self.e if "trunks.words" in n)

    def check_start(self):
        """Section 3.2: both halves are of one depth. 0.07 is CLIP's."""
        depth = self.depth or self.blocks
        assert f"decoder.blocks.{depth - 1}.up.weight" in self.w
        assert f"decoder.blocks.{depth}.up.weight" not in self.w and self.min_batch_size == 2
        weights = self.w | {n: v for n, v in self.e.items() if n.startswith("pools.")}
        for name, value in weights.items():  # linear maps by Glorot, without biases
            if value.dim() == 2 and name.startswith(("decoder.", "pools.")) and "weight" in name:
                bound = (6 / sum(value.shape)) ** 0.5
                assert 0.9 * bound < value.abs().max() <= bound, name
                assert not weights[name.replace("weight", "bias")].any(), name
        start = self.w["scale.log"].detach()
        assert torch.isclose(start, -torch.tensor(self.temperature).double().log(), rtol=1e-6)
        for f in self.encoder.fields:
            assert self.e[f"heads.{f}.weight"].shape == (self.width, self.encoder.width)
            if f != self.text:
                pools = [n for n in self.e if n.startswith(f"pools.{f}.") and "queries" in n]
                assert len(pools) == 1 + bool(self.queries)
                assert self.e[f"pools.{f}.contrastive.queries"].shape[0] == 1
        for name, value in self.e.items():  # as BERT's weights
            if name.startswith("pools.") and name.endswith(("queries", "start", "token")):
                assert 0.01 < value.std() < 0.03, name

    def losses(self, batch):
        tokens = self.encoder.tokenize(batch)
        vectors, read, states = {f: {} for f in self.encoder.fields}, {}, {}
        for f in self.encoder.fields:
            for r in tokens[f].row.unique().tolist() if f in tokens else ():
                x = tokens[f].x[tokens[f].row == r]
                if f == self.text:
                    states[r], vectors[f][r] = self.first_half(x)
                else:
                    query, vectors[f][r] = self.pooled(f, self.trunk(f, x))
                    read[r] = torch.cat([read[r], query]) if r in read else query
        terms = self.contrast(vectors)
        column, total, count = batch[self.text], 0 * self.w["ends.bias"].sum(), 0
        for r, text in zip(column.rows.tolist(), column.values.split()):
            if r in read:
                loss, n = self.caption(self.second_half(states[r], read[r]), text)
                total, count = total + loss, count + n
        terms[f"caption/{self.text}"] = self.caption_weight * total / max(count, 1)
        return terms

    # the picture, or anything else that is described

    def trunk(self, field, x, see=None):
        for i in range(self.blocks):
            x = block(self.e, f"trunks.{field}.blocks.{i}", x, self.encoder.num_heads, see)
        return norm(self.e, f"trunks.{field}.norm", x)

    def pooled(self, field, x):
        """Of many queries what the decoder reads; of one query the vector, after them or beside."""
        read = self.pooler(f"pools.{field}.generative", x) if self.queries else x
        one = self.pooler(f"pools.{field}.contrastive", read if self.cascade else x)
        return read, one[0]

    def pooler(self, name, x):
        x = norm(self.e, f"{name}.norm", x)
        return self.attention(self.e, f"{name}.attention", self.e[f"{name}.queries"], x)

    def attention(self, w, name, x, y, see=None):
        q, (k, v) = linear(w, f"{name}.query", x), linear(w, f"{name}.key_value", y).chunk(2, 1)
        return linear(w, f"{name}.out", attend(q, k, v, self.encoder.num_heads, see))

    # the text

    def first_half(self, x):
        """A class token at the end, which reads all, and which no other reads."""
        pool = f"pools.{self.text}"
        x = torch.cat([self.e[f"{pool}.start"][None], x, self.e[f"{pool}.token"][None]])
        x = self.trunk(self.text, x, self.earlier(len(x)))
        return x[:-1], x[-1]

    def earlier(self, n):
        return torch.ones(n, n, dtype=torch.bool).tril()

    def second_half(self, x, y):
        y = norm(self.w, "decoder.norm_keys", y)
        for i in range(self.depth or self.blocks):
            name = f"decoder.blocks.{i}"
            z = norm(self.w, f"{name}.norm1", x)
            x = x + self.attention(self.w, f"{name}.self_attention", z, z, self.earlier(len(x)))
            z = norm(self.w, f"{name}.norms.0", x)
            x = x + self.attention(self.w, f"{name}.source_attention.0", z, y)
            x = x + mlp(self.w, name, norm(self.w, f"{name}.norm3", x))
        return norm(self.w, "decoder.norm", x)

    def caption(self, x, text):
        """Equation 3: each token, of up to four bytes, given those before, and the end."""
        ends = linear(self.w, "ends", x)[:, 0]
        loss = softplus(ends[:-1]).sum() + softplus(-ends[-1])
        for t in range(len(x) - 1):
            logits = linear(self.w, "predictor.0", x[t]).view(PATCH, -1)
            piece = text[PATCH * t : PATCH * t + PATCH].tolist()
            each = [logits[k].logsumexp(0) - logits[k, b] for k, b in enumerate(piece)]
            loss = loss + sum(each) / len(each)
        return loss, len(x)

    # the contrast

    def contrast(self, vectors):
        """Equation 2: both directions are added up (open_clip has their mean)."""
        terms, pairs = {}, list(itertools.combinations(self.encoder.fields, 2))
        for a, b in pairs:
            rows = [r for r in vectors[a] if r in vectors[b]]
            x, y = (
                [unit(linear(self.e, f"heads.{f}", vectors[f][r])) for r in rows] for f in (a, b)
            )
            total = 0 * self.w["scale.log"]
            for i in range(len(rows)):
                one = torch.stack([x[i] @ other for other in y]) * self.scale()
                other = torch.stack([y[i] @ other for other in x]) * self.scale()
                total = total + one.logsumexp(0) - one[i] + other.logsumexp(0) - other[i]
            loss = total / max(len(rows), 1)
            terms[f"info_nce/{a}~{b}"] = self.contrastive_weight * loss / len(pairs)
        return terms

    def scale(self):
        """At most 100, as of CLIP; past that gradients go on."""
        log = self.w["scale.log"]
        if log.detach().exp() > self.max_scale:
            return self.max_scale * (log - log.detach()).exp()
        return log.exp()


VIEWS = {"picture": ("weak",), "words": ("plain",), "signal": ("weak",), "facts": ("weak",)}


def steps(fields=("picture", "words"), rows=6, **changed):
    reference = type("CoCa", (CoCa,), {n: v for n, v in changed.items() if n != "text_field"})
    views = {f: VIEWS[f] for f in fields}
    golden("coca", reference, views=views, fields=fields, rows=rows, also=changed)


def test_defaults():
    """Section 3.2 and appendix B: 256 queries, two for captioning and one for the contrast."""
    assert defaults("coca") == {
        "text_field": "",
        "width": 512,
        "queries": 256,
        "cascade": True,
        "depth": 0,
        "contrastive_weight": 1.0,
        "caption_weight": 2.0,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    page = exact(method("coca", sources=("picture", "words"), width=512, queries=256))
    type("CoCa", (CoCa,), {"width": 512})(page).check_start()
    assert page.encoder.pools["picture"].generative.queries.shape[0] == 256
    writing = inspect.signature(type(page).generate).parameters
    assert {n: p.default for n, p in writing.items() if p.kind == p.KEYWORD_ONLY} == {
        "beams": 4,
        "longest": 64,
        "alpha": 0.6,
    }


def test_a_text_without_what_was_put_around_it_is_the_text():
    page = exact(method("coca", sources=("picture", "words")))
    pool = page.encoder.pools["words"]
    rows = exact(batch(page.views, sources=("picture", "words")))
    tokens = page.encoder.tokenize(rows)["words"]
    inner = pool.strip(pool.prepare(tokens))
    assert torch.equal(inner.x, tokens.x) and torch.equal(inner.row, tokens.row)


def test_writing_is_a_beam_search_of_what_is_read(monkeypatch):
    """Rows that have something to read, the words apart; its options reach the search."""
    seen = []

    def search(step, rows, **options):
        seen.append((rows, options))
        return [([65 + i], 0.0) for i in range(rows)]

    monkeypatch.setattr(coca, "beam_search", search)
    monkeypatch.setattr(coca, "can_be_written", lambda modality: True)
    page = exact(method("coca", sources=("picture", "words"))).eval()
    rows = exact(batch(page.views, sources=("picture", "words")))
    written = page.generate(rows, beams=3, longest=7, alpha=0.2)
    assert list(written) == rows["picture"].rows.tolist() and written[1] == "A"
    options = {"beams": 3, "longest": 7, "alpha": 0.2, "device": torch.device("cpu")}
    assert seen == [(len(written), options)]
    assert page.generate(rows.only("words")) == {}


def test_recipe():
    """Section 4.1; of 100 million records on it is the usual one, as of CLIP."""
    assert PAPER_RECIPE == Recipe(
        optimizer="adafactor",
        lr=8e-4,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        schedule="linear",
        warmup=0.02,
        clip=0.0,
        batch_size=65536,
        steps=500_000,
        resolution=288,
    )
    assert methods.paper_records("coca") == 100_000_000


@pytest.mark.parametrize(
    "fields", [("picture", "words"), ("words", "picture"), ("picture", "words", "signal")]
)
def test_two_steps(fields):
    steps(fields)


@pytest.mark.parametrize(
    "options",
    [
        {"cascade": False},
        {"queries": 0},
        {"depth": 1, "contrastive_weight": 0.3, "caption_weight": 0.7, "width": 8},
        {"temperature": 0.5, "queries": 1},
        {"temperature": 0.015, "max_scale": 20.0},
        {"text_field": "words"},
    ],
)
def test_two_steps_with_other_options(options):
    steps(
        ("picture", "words", "facts") if "cascade" in options else ("picture", "words"), **options
    )


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_little_to_compare(rows):
    """One row has a text and no picture; of two, one has both."""
    steps(rows=rows)
