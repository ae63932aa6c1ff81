"""CUNI's translator of captions, Helcl et al. 2018, arXiv:1811.04697: a picture as another source, and as
what is imagined. Strategies of several sources: Libovicky et al. 2018, arXiv:1811.04719, and the
authors' code. Imagination: Elliott and Kadar 2017, arXiv:1705.04350, equation 8."""

import inspect

import pytest
import torch
from torch.nn.functional import softplus

from tests.golden.harness import Reference, defaults, golden, unit
from tests.golden.naive import positions
from tests.golden.transformers import attend, linear, mlp, norm
from tests.methods.bench import method

PATCH = 4


class Translator(Reference):
    source, target, images, strategy, depth = "words", "picture", "read", "serial", 2
    weight, margin = 1.0, 0.1

    def check_start(self):
        assert self.encoder.trunk == "shared" and self.min_batch_size == 1
        d, fields = self.encoder.width, self.others()
        sources = 1 + len(fields) * (self.images != "imagine")
        for i in range(sources):
            assert self.w[f"writer.decoder.source_projections.{i}.1.weight"].shape == (d, d)
        assert f"writer.decoder.source_projections.{sources}.1.weight" not in self.w
        assert f"writer.decoder.blocks.{self.depth}.up.weight" not in self.w
        imagined = {n.split(".")[1] for n in self.w if n.startswith("imagine.")}
        assert imagined == (set(fields) if self.images != "read" else set())
        # as in Vaswani et al.'s program: linear maps by Glorot, without biases
        assert 0.01 < self.w["writer.decoder.start"].std() < 0.03
        for name, value in self.w.items():
            linear_one = value.dim() == 2 and name.startswith("writer.decoder.")
            if linear_one:
                bound = (6 / sum(value.shape)) ** 0.5
                assert 0.9 * bound < value.abs().max() <= bound, name
                assert not self.w[name.replace("weight", "bias")].any(), name

    def others(self):
        return [f for f in self.encoder.fields if f not in (self.source, self.target)]

    def losses(self, batch):
        fields = [self.source, *self.others()]
        tokens = self.encoder.encode(self.encoder.tokenize(batch.only(*fields)))
        states = {f: {} for f in fields}
        for f, t in tokens.items():
            states[f] = {r: t.x[t.row == r] for r in t.row.unique().tolist()}
        column = batch[self.target]
        total, count = 0 * self.w["writer.ends.bias"].sum(), 0
        content = self.encoder.patchify(batch.only(self.target))[self.target]
        read = fields[:1] if self.images == "imagine" else fields
        for r, text in zip(column.rows.tolist(), column.values.split()):
            own = {i: states[f][r] for i, f in enumerate(read) if r in states[f]}
            if own:
                loss, n = self.write(own, content.x[content.row == r], text)
                total, count = total + loss, count + n
        terms = {"translate": total / max(count, 1)}
        if self.images != "read":
            for f in self.others():
                terms[f"imagine/{f}"] = self.imagined(batch, states, f) / len(self.others())
        return terms

    # the decoder

    def write(self, sources, content, text):
        """The sum of losses of a text's tokens, each of up to four bytes, and of its end; and their
        number."""
        d = "writer.decoder"
        y = {}
        for i, x in sources.items():
            x = norm(self.w, f"{d}.source_projections.{i}.0", x)
            y[i] = linear(self.w, f"{d}.source_projections.{i}.1", x)
        x = torch.cat([self.w[f"{d}.start"][None], linear(self.w, f"{d}.in_proj", content)])
        place = torch.zeros(len(x), 3).double()
        place[:, 0] = torch.arange(len(x))
        x = x + positions(place, x.shape[1])
        for i in range(self.depth):
            x = self.block(f"{d}.blocks.{i}", x, y)
        x = norm(self.w, f"{d}.norm", x)
        ends = linear(self.w, "writer.ends", x)[:, 0]
        loss = softplus(ends[:-1]).sum() + softplus(-ends[-1])
        for t in range(len(x) - 1):
            logits = linear(self.w, "writer.predictor.0", x[t]).view(PATCH, -1)
            piece = text[PATCH * t : PATCH * t + PATCH].tolist()
            each = [logits[k].logsumexp(0) - logits[k, b] for k, b in enumerate(piece)]
            loss = loss + sum(each) / len(each)
        return loss, len(x)

    def block(self, name, x, sources):
        """Attention to what is written, to the sources, and a perceptron, norms before."""
        earlier = torch.ones(len(x), len(x), dtype=torch.bool).tril()
        z = norm(self.w, f"{name}.norm1", x)
        x = x + self.read(f"{name}.self_attention", z, z, earlier)
        x = getattr(self, self.strategy)(name, x, sources)
        return x + mlp(self.w, name, norm(self.w, f"{name}.norm3", x))

    def read(self, name, x, y, see=None):
        q = linear(self.w, f"{name}.query", x)
        k, v = linear(self.w, f"{name}.key_value", y).chunk(2, 1)
        return linear(self.w, f"{name}.out", attend(q, k, v, self.encoder.num_heads, see))

    def sources_of(self, name, z, sources):
        return [self.read(f"{name}.source_attention.{i}", z, y) for i, y in sources.items()]

    def serial(self, name, x, sources):
        for i, y in sources.items():
            z = norm(self.w, f"{name}.norms.{i}", x)
            x = x + self.read(f"{name}.source_attention.{i}", z, y)
        return x

    def parallel(self, name, x, sources):
        return x + sum(self.sources_of(name, norm(self.w, f"{name}.norms.0", x), sources))

    def flat(self, name, x, sources):
        z, y = norm(self.w, f"{name}.norms.0", x), torch.cat(list(sources.values()))
        return x + self.read(f"{name}.source_attention.0", z, y)

    def hierarchical(self, name, x, sources):
        """What is read of each source is read again, with the same queries."""
        z = norm(self.w, f"{name}.norms.0", x)
        contexts = torch.stack(self.sources_of(name, z, sources), 1)
        chosen = [self.read(f"{name}.choice_attention", q[None], y) for q, y in zip(z, contexts)]
        return x + torch.cat(chosen)

    # imagination

    def imagined(self, batch, states, f):
        """Mean states, a perceptron, and a hinge over the other pictures of the batch. What is to be
        imagined learns too, unless it is of a pretrained network as the paper's."""
        features = self.encoder.features(batch.only(f))[f]
        actual = dict(zip(features.rows.tolist(), (unit(v) for v in features.values)))
        rows = [r for r in states[self.source] if r in actual]
        total = 0 * self.w[f"imagine.{f}.0.bias"].sum()
        for i in rows:
            mean = states[self.source][i].mean(0)
            guess = linear(self.w, f"imagine.{f}.0", mean).clamp(min=0)
            guess = unit(linear(self.w, f"imagine.{f}.2", guess))
            for c in rows:
                if c != i:
                    gap = self.margin - guess @ actual[i] + guess @ actual[c]
                    total = total + gap.clamp(min=0)
        return self.weight * total / max(len(rows), 1)


def hold(fields=("picture", "words", "signal"), rows=6, **options):
    options = {"source": "picture", "target": "words", "images": "read", "depth": 1} | options
    reference = type("Translator", (Translator,), options)
    golden(
        "cuni_mmt",
        reference,
        views=("plain",),
        fields=fields,
        rows=rows,
        **options,
    )


@pytest.mark.parametrize("strategy", ["serial", "parallel", "flat", "hierarchical"])
def test_two_steps_of_reading(strategy):
    hold(strategy=strategy)


@pytest.mark.parametrize(
    "options", [{"images": "imagine"}, {"images": "both", "weight": 0.3, "margin": 0.4}]
)
def test_two_steps_of_imagining(options):
    hold(**options)
    hold(("picture", "words", "signal", "facts"), rows=4, source="signal", **options)


def test_two_steps_of_deeper_ones():
    hold(depth=2)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows, images="both")


def test_defaults():
    assert defaults("cuni_mmt") == {
        "source": "",
        "target": "",
        "images": "read",
        "strategy": "serial",
        "depth": 6,
        "weight": 1.0,
        "margin": 0.1,
    }


def test_how_texts_are_written():
    page = method("cuni_mmt", sources=("picture", "words"), images="read")
    assert page.generated_field == page.target == "words" and page.source == "picture"
    options = inspect.signature(page.generate).parameters
    assert {n: p.default for n, p in options.items() if n != "batch"} == {
        "beams": 4,
        "longest": 64,
        "alpha": 0.6,
    }
