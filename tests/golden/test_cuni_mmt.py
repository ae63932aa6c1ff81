"""CUNI's translator of captions, Helcl et al. 2018, arXiv:1811.04697: a picture as another source, and as
what is imagined. Strategies of several sources: Libovicky et al. 2018, arXiv:1811.04719, and the
authors' code. Imagination: Elliott and Kadar 2017, arXiv:1705.04350, equation 8."""

import inspect

import pytest
import torch
from torch.nn.functional import softplus

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, Column, Ragged
from amodal.masking.hashing import hash_bits, uniform
from amodal.nn.encoder import Encoder
from amodal.nn.hidden_dropout import hidden_dropout
from tests.golden.harness import Reference, defaults, golden, unit
from tests.golden.naive import code, positions
from tests.golden.transformers import attend, linear, mlp, norm
from tests.methods import bench
from tests.methods.bench import batch, exact, fields, method

PATCH = 4


class Translator(Reference):
    source, target, images, strategy, depth = "words", "picture", "read", "serial", 2
    weight, margin, tied, dropout = 1.0, 0.1, False, 0.0
    seed, place = torch.tensor(0), 0  # of a row and of a block, for dropout

    def check_start(self):
        if self.tied:
            assert "writer.predictor.0.weight" not in self.w
            assert not self.w["writer.predictor.bias"].any()
            learns = {n for n, p in self.encoder.named_parameters() if p.requires_grad}
            assert f"tokenizers.{self.source}.embed.weight" in learns
            assert not any(n.startswith(f"tokenizers.{self.target}.") for n in learns)
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
        with hidden_dropout(self.dropout, batch.seeds):
            tokens = self.encoder.encode(self.encoder.tokenize(batch.only(*fields)))
        states = {f: {} for f in fields}
        for f, t in tokens.items():
            states[f] = {r: t.x[t.row == r] for r in t.row.unique().tolist()}
        column = batch[self.target]
        total, count = 0 * self.w["writer.ends.bias"].sum(), 0
        content = self.content_of(batch[self.target], batch.size)
        read = fields[:1] if self.images == "imagine" else fields
        for r, text in zip(column.rows.tolist(), column.values.split()):
            own = {i: states[f][r] for i, f in enumerate(read) if r in states[f]}
            if own:
                self.seed = batch.seeds[r]
                loss, n = self.write(own, content.x[content.row == r], text)
                total, count = total + loss, count + n
        terms = {"translate": total / max(count, 1)}
        if self.images != "read":
            for f in self.others():
                terms[f"imagine/{f}"] = self.imagined(batch, states, f) / len(self.others())
        return terms

    # the decoder

    def content_of(self, column, size):
        """A target without embeddings of its own has those of the source."""
        field = self.source if self.tied else self.target
        return self.encoder.patchify(Batch.of(size, {field: column}, range(size)))[field]

    def drop(self, x, place):
        """Each entry of each token by a draw of the row and of the token's number."""
        token = torch.arange(len(x))
        seeds = hash_bits(self.seed[None], code("decoder dropout"), token)
        stays = uniform(seeds[:, None], place, torch.arange(x.shape[1])) >= self.dropout
        return torch.where(stays, x, 0.0) / (1 - self.dropout)

    def logits(self, x):
        """By the embeddings of the ids, over the root of their width; or by a layer."""
        if self.tied:
            table = dict(self.encoder.named_parameters())
            table = table[f"tokenizers.{self.source}.embed.weight"][:256]
            return (table @ x / len(x) ** 0.5 + self.w["writer.predictor.bias"])[None]
        return linear(self.w, "writer.predictor.0", x).view(self.patch, -1)

    patch = PATCH

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
        x = self.drop(x + positions(place, x.shape[1]), 0)
        for i in range(self.depth):
            self.place = 1 + i * (len(self.others()) * (self.images != "imagine") + 3)
            x = self.block(f"{d}.blocks.{i}", x, y)
        x = norm(self.w, f"{d}.norm", x)
        ends = linear(self.w, "writer.ends", x)[:, 0]
        loss = softplus(ends[:-1]).sum() + softplus(-ends[-1])
        for t in range(len(x) - 1):
            logits = self.logits(x[t])
            piece = text[self.patch * t : self.patch * t + self.patch].tolist()
            each = [logits[k].logsumexp(0) - logits[k, b] for k, b in enumerate(piece)]
            loss = loss + sum(each) / len(each)
        return loss, len(x)

    def block(self, name, x, sources):
        """Attention to what is written, to the sources, and a perceptron, norms before."""
        earlier = torch.ones(len(x), len(x), dtype=torch.bool).tril()
        z = norm(self.w, f"{name}.norm1", x)
        x = x + self.drop(self.read(f"{name}.self_attention", z, z, earlier), self.place)
        x = getattr(self, self.strategy)(name, x, sources)
        return x + self.drop(mlp(self.w, name, norm(self.w, f"{name}.norm3", x)), self.place + 1)

    def read(self, name, x, y, see=None):
        q = linear(self.w, f"{name}.query", x)
        k, v = linear(self.w, f"{name}.key_value", y).chunk(2, 1)
        return linear(self.w, f"{name}.out", attend(q, k, v, self.encoder.num_heads, see))

    def sources_of(self, name, z, sources):
        return [self.read_source(name, i, z, y) for i, y in sources.items()]

    def read_source(self, name, i, z, y):
        return self.drop(self.read(f"{name}.source_attention.{i}", z, y), self.place + 2 + i)

    def serial(self, name, x, sources):
        for i, y in sources.items():
            z = norm(self.w, f"{name}.norms.{i}", x)
            x = x + self.read_source(name, i, z, y)
        return x

    def parallel(self, name, x, sources):
        return x + sum(self.sources_of(name, norm(self.w, f"{name}.norms.0", x), sources))

    def flat(self, name, x, sources):
        z, y = norm(self.w, f"{name}.norms.0", x), torch.cat(list(sources.values()))
        return x + self.read_source(name, 0, z, y)

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


LANGUAGES = ("picture", "english", "german")


@pytest.fixture
def languages(monkeypatch):
    """Two texts of bytes, one a token, and what is theirs of a batch."""
    small, draw = bench.fields, bench.raw

    def fields(names=bench.FIELDS):
        text, plain = modalities.make("text", max_length=24), small(bench.FIELDS)
        return {n: plain.get(n, text) for n in names}

    monkeypatch.setattr(bench, "fields", fields)
    monkeypatch.setattr(
        bench, "raw", lambda f, rng: draw("words" if f in LANGUAGES[1:] else f, rng)
    )


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


@pytest.mark.parametrize("strategy", ["serial", "parallel", "flat", "hierarchical"])
def test_two_steps_with_dropout(strategy):
    """Of what enters the encoder's trunk and the decoder, and of what each part of a block adds."""
    hold(dropout=0.3, strategy=strategy, depth=2)


@pytest.mark.parametrize("images", ["read", "imagine"])
def test_two_steps_of_one_table_of_embeddings(languages, images):
    options = {"source": "english", "target": "german", "patch": 1, "tied": True}
    reference = type("Tied", (Translator,), options | {"images": images, "depth": 1})
    del options["patch"]
    golden(
        "cuni_mmt", reference, views=("plain",), fields=LANGUAGES, depth=1, images=images, **options
    )


def test_dropout_of_evaluation_is_none():
    page = exact(method("cuni_mmt", dropout=0.5)).eval()
    plain = exact(method("cuni_mmt")).eval()
    rows = exact(batch(("plain",)))
    for name, value in page.losses(page.features(rows)).items():
        assert torch.equal(value, plain.losses(plain.features(rows))[name])


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_is_a_probability(rate):
    with pytest.raises(AmodalError, match="dropout is a probability from 0 to below 1"):
        method("cuni_mmt", dropout=rate)


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
        "tied": False,
        "dropout": 0.0,
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


class Writer(Translator):
    """Beam search over texts of bytes, of which every one is scored from its beginning."""

    source, target, depth = "picture", "told", 1

    @torch.no_grad()
    def next_scores(self, sources, ids):
        """Log probabilities of every next byte, and of the end."""
        content = torch.zeros(0, self.encoder.width).double()
        if ids:
            column = Column(Ragged(torch.tensor(ids), torch.tensor([len(ids)])), torch.tensor([0]))
            content = self.encoder.patchify(Batch.of(1, {"told": column}))["told"].x
        d, y = "writer.decoder", {}
        for i, x in sources.items():
            x = norm(self.w, f"{d}.source_projections.{i}.0", x)
            y[i] = linear(self.w, f"{d}.source_projections.{i}.1", x)
        x = torch.cat([self.w[f"{d}.start"][None], linear(self.w, f"{d}.in_proj", content)])
        place = torch.zeros(len(x), 3).double()
        place[:, 0] = torch.arange(len(x))
        x = self.block(f"{d}.blocks.0", x + positions(place, x.shape[1]), y)
        last = norm(self.w, f"{d}.norm", x)[-1]
        end = linear(self.w, "writer.ends", last)[0]
        letters = linear(self.w, "writer.predictor.0", last).log_softmax(0) - softplus(end)
        return letters.tolist(), -float(softplus(-end))

    def write_best(self, sources, beams, longest, alpha):
        """The finished text with the most log p over ((5 + ids and end) / 6) ** alpha. An end
        counts if it is among the best continuations of all beams; so does what is cut off."""
        alive, finished = [((), 0.0)], []
        for t in range(longest):
            grown = []
            for ids, score in alive:
                letters, end = self.next_scores(sources, list(ids))
                grown += [(score + value, ids, k) for k, value in enumerate(letters)]
                grown.append((score + end, ids, None))
            best = sorted(grown, key=lambda one: -one[0])
            finished += [
                (score / ((6 + t) / 6) ** alpha, ids) for score, ids, k in best[:beams] if k is None
            ]
            alive = [((*ids, k), score) for score, ids, k in best if k is not None][:beams]
        finished += [(score / ((5 + longest) / 6) ** alpha, ids) for ids, score in alive]
        return bytes(max(finished)[1]).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("beams", "longest", "alpha", "end"),
    [
        (1, 4, 0.6, -1.0),
        (3, 4, 0.6, 0.5),
        (6, 3, 0.0, 0.0),
        (6, 5, 4.0, 0.0),
        (2, 2, 0.6, -30.0),
    ],
)
def test_what_is_written(beams, longest, alpha, end):
    every = fields(("picture", "words")) | {"told": modalities.make("text", max_length=24)}
    torch.manual_seed(0)
    encoder = Encoder(every, size="nano", **methods.encoder_options("cuni_mmt"))
    options = {"source": "picture", "target": "told", "depth": 1}
    page = exact(methods.build("cuni_mmt", encoder, **options)).eval()
    with torch.no_grad():
        for p in page.writer.parameters():
            p += 0.3 * torch.randn_like(p)
        page.writer.ends.bias.fill_(end)
    rows = exact(batch(("plain",), size=4, sources=("picture", "words")))
    reference = Writer(page)
    tokens = reference.encoder.encode(reference.encoder.tokenize(rows))
    expected = {}
    for r in range(4):
        lists = {i: tokens[f].x[tokens[f].row == r] for i, f in enumerate(("picture", "words"))}
        if present := {i: x for i, x in lists.items() if len(x)}:
            expected[r] = reference.write_best(present, beams, longest, alpha)
    assert page.generate(rows, beams=beams, longest=longest, alpha=alpha) == expected


def test_what_is_generated_learns_nothing_where_it_is_read():
    every = fields(("picture", "words"))
    page = methods.build("cuni_mmt", Encoder(every, size="nano"), target="words", depth=1)
    learns = {f: p.requires_grad for f in every for p in page.encoder.trunks[f].parameters()}
    assert learns == {"picture": True, "words": False}
