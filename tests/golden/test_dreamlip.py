"""DreamLIP, Zheng et al. 2024, arXiv:2403.17007: the multi-positive loss of section 3.2, the
grouping loss of section 3.3."""

import itertools

import pytest
import torch

from amodal.methods.contrastive.dreamlip import PAPER_RECIPE
from tests.golden.harness import Reference, common, defaults, golden, unit


class DreamLip(Reference):
    captions, weight, threshold = 3, 1.0, 0.0
    width, temperature, max_scale = 8, 0.07, 100.0

    def check_start(self):
        """Two learned temperatures."""
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        for name in ("whole", "group"):
            begin = self.w[f"scales.{name}.log"].detach().exp()
            assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)

    def scale(self, name):
        """At most 100; what is clipped keeps its gradient, as if the parameter were clipped after
        a step."""
        log = self.w[f"scales.{name}.log"]
        if log.detach().exp() > self.max_scale:
            return self.max_scale * (log - log.detach()).exp()
        return log.exp()

    def losses(self, batch):
        tokens = self.encoder.encode(self.encoder.tokenize(batch))
        pooled = self.encoder.pool(tokens)
        texts = [f"words:{k + 1}" for k in range(self.captions + 1)]
        others = [s for s in tokens if s not in texts]
        terms = {}
        for a, b in itertools.combinations(others, 2):  # of two fields without sentences
            x, y = (unit(z) for z in self.of_both(pooled, a, b))
            terms[f"info_nce/{a}~{b}"] = self.symmetric(x, y, "whole")
        for s in others:
            each = [self.symmetric(*self.of_both(pooled, s, t), "whole") for t in texts]
            terms[f"sentences/{s}~words"] = sum(each) / len(each)
        terms = {name: term / len(terms) for name, term in terms.items()}
        for s in others if self.weight else ():
            pairs = self.groups(batch, tokens, pooled, s, texts[1:])
            a, b = (torch.stack(x) for x in zip(*pairs)) if pairs else ([], [])
            terms[f"group/{s}~words"] = self.weight * self.symmetric(a, b, "group") / len(others)
        return terms

    def of_both(self, pooled, a, b):
        one, other = common(pooled, a, b)
        return self.space(a, one), self.space(b, other)

    def groups(self, batch, tokens, pooled, source, texts):
        """A sentence and its group of patches, of every row and each of its sentences. One that was
        drawn twice would be a negative of itself, and counts once."""
        pairs = []
        for row in batch[source].rows.tolist():
            patches, seen = self.space(source, tokens[source].x[tokens[source].row == row]), []
            for t in texts:
                rows = batch[t].rows.tolist()
                if row not in rows:
                    continue
                words = self.ids(batch[t].values, rows.index(row))
                if words not in seen:
                    seen.append(words)
                    sentence = self.space("words", pooled[t].values[rows.index(row)])
                    pairs.append((sentence, self.group(sentence, patches)))
        return pairs

    def ids(self, lists, i):
        begin = int(lists.lengths[:i].sum())
        return lists.flat[begin : begin + int(lists.lengths[i])].tolist()

    def space(self, field, x):
        return unit(x @ self.encoder.heads[field.partition(":")[0]].weight.T)

    def group(self, sentence, patches):
        """Section 3.3: similarity, between 0 and 1 over patches, nothing below the threshold, which
        is one over their number, a weighted mean."""
        s = patches @ sentence
        if len(s) > 1:
            s = (s - s.min()) / (s.max() - s.min())
            s = torch.where(s < (self.threshold or 1 / len(s)), 0, s)
        else:
            s = torch.ones_like(s)
        return unit((s / s.sum()) @ patches)

    def symmetric(self, a, b, name):
        n, both = len(a), 0
        if n < 2:
            return 0 * self.w[f"scales.{name}.log"]
        logits = a @ b.T * self.scale(name)
        for rows in (logits, logits.T):
            both = both + sum(rows[i].logsumexp(0) - rows[i, i] for i in range(n)) / n
        return both / 2


def check(fields=("picture", "words"), rows=6, **options):
    reference = type("DreamLip", (DreamLip,), dict(options))
    settings = {"width": 8, "captions": 3} | options
    views = {f: ("weak",) for f in fields} | {"words": ("weak", *["local"] * settings["captions"])}
    golden("dreamlip", reference, views=views, fields=fields, rows=rows, **settings)


FIELDS = [("picture", "words"), ("words", "picture", "facts")]


@pytest.mark.parametrize("fields", FIELDS)
def test_two_steps(fields):
    check(fields)


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.6, "weight": 0.3, "temperature": 0.5, "captions": 2},
        {"weight": 0.0, "captions": 1, "temperature": 0.2, "max_scale": 4.0},
        {"weight": 2.0, "captions": 4, "temperature": 0.3, "max_scale": 3.0},
    ],
)
def test_two_steps_with_other_options(options, fields):
    check(fields, **options)


@pytest.mark.parametrize("fields", FIELDS)
def test_one_pair_and_none(fields):
    for rows in (1, 2):
        check(fields, rows=rows)


def test_defaults():
    """The threshold 0 stands for one over the number of patches; 0.07 and 100 are CLIP's."""
    assert defaults("dreamlip") == {
        "captions": 8,
        "weight": 1.0,
        "threshold": 0.0,
        "width": 128,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    check(captions=8, width=128)


def test_recipe():
    """The defaults of the authors' program for a ViT, which is OpenCLIP's."""
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.betas, r.weight_decay) == ("adamw", 5e-4, (0.9, 0.98), 0.2)
    assert (r.schedule, r.warmup_steps, r.epochs, r.clip) == ("cosine", 10_000, 32.0, 0.0)
