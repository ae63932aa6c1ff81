"""Wang et al. 2023, arXiv:2212.05561, section 3: scores of bags of regions, and LSE+NL."""

import itertools

import pytest
import torch

from tests.golden.harness import Reference, common, defaults, golden, unit


class MilVl(Reference):
    pool, sharpness, local, whole, captions = "lse", 10.0, 1.0, 1.0, 2
    temperature, limit, texts, others = 0.07, 100.0, ("words",), ("picture",)

    def check_start(self):
        assert self.min_batch_size == 2 and self.encoder.space_width == 8
        for kind in ("local", "whole"):
            begin = self.w[f"scales.{kind}.log"].detach().exp()
            assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)

    def scale(self, kind):
        log = self.w[f"scales.{kind}.log"]
        if log.detach().exp() > self.limit:
            return self.limit * (log - log.detach()).exp()
        return log.exp()

    def losses(self, batch):
        z = self.encoder(batch).columns
        contexts = self.encoder.encode(self.encoder.tokenize(batch))
        pairs, terms = [(o, t) for o in self.others for t in self.texts], {}
        no_texts = list(itertools.combinations(self.others, 2))
        for a, b in no_texts:  # fields that are no text have CLIP's loss
            x, y = common(z, a, b)
            bags, lines = list(unit(x)[:, None]), list(unit(y)[:, None])
            loss = self.nce(bags, lines, lambda h: h[0], "whole")
            terms[f"info_nce/{a}~{b}"] = loss / len(no_texts)
        for other, text in pairs:
            views = [f"{text}:{i + 1}" for i in range(self.captions)]
            if self.captions == 1:
                views = [text]
            rows = [r for r in z[other].rows.tolist() if r in z[views[0]].rows.tolist()]
            name = f"{other}~{text}"
            sentences = [[self.vector(z[v], row) for v in views] for row in rows]
            if self.local:
                regions = [self.regions(contexts[other], other, row) for row in rows]
                terms[f"local/{name}"] = (
                    self.local * self.nce(regions, sentences, self.pooled, "local") / len(pairs)
                )
            if self.whole:
                images = [self.vector(z[other], row)[None] for row in rows]
                terms[f"whole/{name}"] = (
                    self.whole * self.nce(images, sentences, lambda h: h[0], "whole") / len(pairs)
                )
        return terms

    def vector(self, column, row):
        return unit(column.values[column.rows.tolist().index(row)][None])[0]

    def regions(self, tokens, field, row):
        return unit(tokens.x[tokens.row == row] @ self.encoder.heads[field].weight.T)

    def nce(self, bags, sentences, pool, kind):
        """Equation 1: the score of a pair is the mean over sentences of pooled instances."""
        n = len(bags)
        if not n:
            return 0 * sum(p.sum() for p in self.encoder.parameters())
        scores = torch.stack(
            [
                torch.stack([sum(pool(x @ y) for y in ys) / len(ys) for ys in sentences])
                for x in bags
            ]
        )
        logits, total = scores * self.scale(kind), 0
        for i in range(n):
            total = total + logits[i].logsumexp(0) + logits[:, i].logsumexp(0) - 2 * logits[i, i]
        return total / n / 2

    def pooled(self, h):
        g = self.sharpness
        if self.pool == "lse":
            return torch.log((g * h).exp().mean()) / g
        if self.pool == "attention":
            weights = (g * h).exp() / (g * h).exp().sum()
            return (weights * h).sum()
        if self.pool == "noisy_or":
            absent = 1
            for score in h:
                absent = absent * (1 - torch.sigmoid(g * (score - 0.5)))
            return 1 - absent
        return h.mean() if self.pool == "mean" else max(h)


def hold(fields=("picture", "words"), texts=("words",), others=("picture",), rows=6, **options):
    options = {"width": 8, "captions": 2} | options
    known = {k: v for k, v in options.items() if hasattr(MilVl, k)}
    known |= {"limit": options.get("max_scale", 100.0), "texts": texts, "others": others}
    views = {f: ("local",) * options["captions"] if f in texts else ("weak",) for f in fields}
    reference = type("MilVl", (MilVl,), known)
    golden("mil_vl", reference, views=views, fields=fields, rows=rows, **options)


@pytest.mark.parametrize("pool", ["lse", "mean", "max", "attention", "noisy_or"])
def test_two_steps(pool):
    hold(pool=pool)
    # stretches of signals, of which not all have the same number
    hold(("signal", "words"), others=("signal",), pool=pool)


def test_two_steps_with_three_fields():
    hold(("picture", "words", "facts"), others=("picture", "facts"))


def test_two_steps_with_one_sentence():
    hold(captions=1)


@pytest.mark.parametrize(
    "options",
    [
        {"sharpness": 0.7, "temperature": 0.3, "local": 0.4, "whole": 2.5},
        {"local": 0.0, "captions": 3},
        {"whole": 0.0, "max_scale": 5.0},
        {"pool": "attention", "sharpness": 3.0},
        {"pool": "noisy_or", "sharpness": 3.0},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_pair_and_none(rows):
    hold(rows=rows)


def test_defaults():
    """Equal weights of both losses, and CLIP's temperature; the paper searches the others."""
    assert defaults("mil_vl") == {
        "pool": "lse",
        "sharpness": 10.0,
        "local": 1.0,
        "whole": 1.0,
        "captions": 4,
        "width": 128,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    hold(captions=4)
