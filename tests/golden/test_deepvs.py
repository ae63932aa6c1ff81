"""Karpathy and Fei-Fei 2015, arXiv:1412.2306: equations 2 to 15."""

import numpy as np
import pytest
import torch

from amodal import methods, modalities
from amodal.methods.contract import Clock
from amodal.nn.encoder import Encoder
from tests.golden.harness import STEPS, Reference, assert_same, defaults, descend, golden, gradients
from tests.methods import bench


class DeepVS(Reference):
    text, margin, reduction, regions, beta = "words", 1.0, "sum", True, 1.0
    stage, width = 0, 8

    def check_start(self):
        assert self.min_batch_size == 2 and self.encoder.space_width == self.width
        if "words" in self.encoder.fields:
            assert type(self.encoder.trunks["words"]).__name__ == "Brnn"

    def losses(self, batch):
        trunk, whole = self.trunks(batch)
        others = [f for f in self.encoder.fields if f != self.text]
        terms = {}
        for f in others:
            rows = [r for r in trunk[f] if r in trunk[self.text]]
            if self.stage:
                loss = self.caption_loss(f, trunk, whole, rows, batch)
                terms[f"caption/{f}"] = loss / len(others)
                continue
            seen = [self.map(f, self.parts(f, trunk, whole, r)) for r in rows]
            words = [self.map(self.text, trunk[self.text][r]) for r in rows]
            terms[f"hinge/{f}~{self.text}"] = self.hinge(seen, words) / len(others)
        return terms

    def trunks(self, batch):
        """Field -> row -> vectors of its tokens; and field -> row -> their pool."""
        tokens = self.encoder.tokenize(batch)
        contexts = self.encoder.encode(tokens)
        pooled, trunk, whole = self.encoder.features(batch).columns, {}, {}
        for f, context in contexts.items():
            rows = batch.columns[f].rows.tolist()
            trunk[f] = {r: context.x[context.row == r] for r in rows}
            whole[f] = dict(zip(rows, pooled[f].values))
        if self.text == "words":
            t = tokens["words"]
            trunk["words"] = {r: self.brnn(t.x[t.row == r]) for r in trunk["words"]}
        return trunk, whole

    def brnn(self, x):
        """Equations 2 to 6: two recurrences, one from each end."""
        net = self.encoder.trunks["words"]

        def linear(layer, x):
            return x @ layer.weight.T + layer.bias

        e = linear(net.in_proj, x).relu()
        forth, back = [0 * e[0]], [0 * e[0]]
        for t in range(len(e)):
            forth.append((e[t] + linear(net.forward_step, forth[-1])).relu())
        for t in reversed(range(len(e))):
            back.append((e[t] + linear(net.backward_step, back[-1])).relu())
        states = torch.stack(forth[1:]) + torch.stack(back[1:][::-1])
        return linear(net.out_proj, states).relu()

    def parts(self, field, trunk, whole, row):
        """The whole picture is a region too."""
        first = whole[field][row][None]
        return torch.cat([first, trunk[field][row]]) if self.regions else first

    def map(self, field, x):
        return x @ self.encoder.heads[field].weight.T

    def score(self, regions, words):
        """Equation 8: each word with its best region."""
        return sum(max(r @ w for r in regions) for w in words)

    def hinge(self, seen, words):
        """Equation 9, of which the mean over pairs is taken."""
        n, total = len(seen), 0
        if n < 2:
            return 0 * sum(x.sum() for x in [*seen, *words])
        s = [[self.score(v, w) for w in words] for v in seen]
        for k in range(n):
            by_words = [s[k][j] - s[k][k] + self.margin for j in range(n) if j != k]
            by_seen = [s[j][k] - s[k][k] + self.margin for j in range(n) if j != k]
            for terms in (by_words, by_seen):
                terms = torch.stack(terms).relu()
                total = (
                    total
                    + {"sum": terms.sum, "mean": terms.mean, "hardest": terms.max}[self.reduction]()
                )
        return total / n

    def caption_loss(self, field, trunk, whole, rows, batch):
        """Equations 10 to 15: of whole pictures with their texts, and of regions with snippets."""
        lines, total, number = batch.columns[self.text], 0, 0
        texts = dict(zip(lines.rows.tolist(), lines.values.split()))
        for r in rows:
            parts = self.parts(field, trunk, whole, r).detach()
            words = self.map(self.text, trunk[self.text][r]).detach()
            path = self.best_path(self.map(field, parts).detach() @ words.T)
            ids, pieces, begin = texts[r].long().tolist(), [(0, texts[r].long().tolist())], 0
            for end in range(1, len(ids) + 1):
                if end == len(ids) or path[end] != path[begin]:
                    pieces.append((path[begin], ids[begin:end]))
                    begin = end
            for region, snippet in pieces:
                total = total + self.surprise(parts[region], snippet)
                number += len(snippet) + 1
        return total / number

    def best_path(self, fits):
        """Equations 10 to 12, by trying all: sum of fits, and beta for neighbours that agree. Of
        long sentences, by dynamic programming."""
        scores = fits.T.tolist()
        best = {a: (s, [a]) for a, s in enumerate(scores[0])}
        for row in scores[1:]:
            best = {
                a: max(
                    (total + row[a] + self.beta * (a == path[-1]), [*path, a])
                    for total, path in best.values()
                )
                for a in range(len(row))
            }
        return max(best.values())[1]

    def surprise(self, vector, ids):
        """Equations 13 to 15: START and the picture come first, END is predicted last."""
        w, end, total = self.w, len(self.w["writer.embedding.weight"]) - 1, 0
        recurrence = w["writer.recurrence.weight"], w["writer.recurrence.bias"]
        h = torch.zeros(len(recurrence[1]), dtype=torch.float64)
        for t, wanted in enumerate([*ids, end]):
            last = end if t == 0 else ids[t - 1]
            h = w["writer.embedding.weight"][last] + recurrence[0] @ h + recurrence[1]
            if t == 0:
                h = h + w["writer.vector_proj.weight"] @ vector
            h = h.relu()
            logits = w["writer.classifier.weight"] @ h + w["writer.classifier.bias"]
            total = total + logits.logsumexp(0) - logits[wanted]
        return total


def hold(fields=("picture", "words"), text="words", **options):
    options = {"width": 8} | options
    known = {k: v for k, v in options.items() if hasattr(DeepVS, k)} | {"text": text}
    golden("deepvs", type("DeepVS", (DeepVS,), known), views=("weak",), fields=fields, **options)


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
def test_two_steps(fields):
    hold(fields)


@pytest.mark.parametrize(
    "options",
    [
        {"regions": False},
        {"margin": 0.2, "reduction": "mean"},
        {"reduction": "hardest"},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


def test_two_steps_with_a_table_for_words():
    hold(("picture", "facts"), text="facts", text_field="facts")


def captioning(**options):
    """Words are written letter by letter."""
    torch.manual_seed(0)
    words = modalities.make("text", max_length=24, patch=1)
    own = {"picture": bench.fields()["picture"], "words": words}
    encoder = Encoder(own, size="nano", mixer="brnn")
    return bench.exact(methods.build("deepvs", encoder, **({"width": 8, "hidden": 6} | options)))


@pytest.mark.parametrize(
    "options", [{"beta": 0.0}, {"beta": 0.05}, {"beta": 3.0}, {"regions": False}]
)
def test_two_steps_of_captions(options):
    page = captioning(captions=0.25, **options).train()
    assert page.stages == (0.75, 1.0)
    page.on_stage_start(1)
    known = {k: v for k, v in options.items() if hasattr(DeepVS, k)}
    naive = type("DeepVS", (DeepVS,), known | {"stage": 1})(page)
    naive.assert_shapes(
        writer__embedding__weight=(257, 6),
        writer__vector_proj__weight=(6, 64),
        writer__classifier__weight=(257, 6),
    )
    for step in (1, 2):
        rows = bench.exact(bench.batch(("weak",), size=6, seed=step, sources=("picture", "words")))
        terms, wanted = page.losses(page.features(rows)), naive.losses(rows)
        assert_same(terms, wanted, f"step {step}: loss")
        sum(terms.values()).backward()
        sum(wanted.values()).backward()
        learnt = {n: p for n, p in page.named_parameters() if p.requires_grad}
        assert {n.split(".")[0] for n in learnt} == {"writer"}  # the encoder is frozen
        assert_same(gradients(learnt), gradients(naive.parameters()), f"step {step}: gradient")
        descend(learnt)
        descend(naive.parameters())
        page.on_step_end(Clock(step, STEPS))
        assert_same(dict(page.state_dict()), naive.state(), f"after step {step}:")


def test_the_first_stage_leaves_the_writer_alone():
    page = captioning(captions=0.5)
    learnt = {n.split(".")[0] for n, p in page.named_parameters() if p.requires_grad}
    assert learnt == {"encoder"}
    rows = bench.exact(bench.batch(("weak",), size=6, seed=1, sources=("picture", "words")))
    assert list(page.losses(page.features(rows))) == ["hinge/picture~words"]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("longest", [1, 4])
@pytest.mark.parametrize("end", [-3.0, 0.0, 1.5, 5.0])
def test_beam_search(beams, longest, end):
    """Texts that end go on competing by their log probability; others are cut off."""
    page = captioning(captions=0.5)
    w = page.writer
    with torch.no_grad():
        for p in w.parameters():
            p += torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).double() / 2
        w.classifier.bias[256] += end
        vector = torch.randn(64, generator=torch.Generator().manual_seed(2)).double()
        h = w.embedding.weight[256] + w.recurrence.bias + w.vector_proj.weight @ vector
        going, done = [(0.0, [], h.relu())], []
        for _ in range(longest):
            longer = []
            for total, ids, h in going:
                log_p = (w.classifier.weight @ h + w.classifier.bias).log_softmax(0)
                done.append((total + float(log_p[256]), ids))
                longer += [(total + float(log_p[i]), [*ids, i], h) for i in range(256)]
            going = [
                (total, ids, next_state(w, h, ids[-1]))
                for total, ids, h in sorted(longer, key=lambda x: -x[0])[:beams]
            ]
        done += [(total, ids) for total, ids, _ in going]
        score, ids = max(done)
        written, log_p = w.write(vector, beams=beams, longest=longest)
    assert written == ids and log_p == pytest.approx(score, abs=1e-5)


def next_state(w, h, word):
    return (w.embedding.weight[word] + w.recurrence.weight @ h + w.recurrence.bias).relu()


def test_captions_are_of_whole_pictures():
    """By a beam search of 5 beams, over texts of up to 40 ids."""
    page = captioning(captions=0.5).eval()
    with torch.no_grad():
        page.writer.classifier.bias[256] -= 400  # no text ends
    assert page.generated_field == "words"
    rows = bench.exact(bench.batch(("weak",), size=4, seed=1, sources=("picture", "words")))
    pooled = page.encoder.features(rows)["picture"]
    field = page.encoder.fields["words"]
    written = page.generate(rows)
    assert list(written) == pooled.rows.tolist()
    for row, vector in zip(pooled.rows.tolist(), pooled.values):
        ids, _ = page.writer.write(vector, beams=5, longest=40)
        assert written[row] == field.text(np.array(ids)) and len(ids) == 40
    short, _ = page.writer.write(pooled.values[0], beams=2, longest=3)
    assert page.generate(rows, beams=2, longest=3)[int(pooled.rows[0])] == field.text(
        np.array(short)
    )


def test_defaults():
    """A space between 300 and 1,600 wide, margins of 1, a generator of 512: section 3."""
    assert defaults("deepvs") == {
        "text_field": "",
        "width": 600,
        "margin": 1.0,
        "reduction": "sum",
        "regions": True,
        "captions": 0.0,
        "beta": 1.0,
        "hidden": 512,
    }
