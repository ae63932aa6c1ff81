"""Multi-modality guidance, Zhao et al. 2023, arXiv:2309.03452, by a description of the paper, which has
no public code: how vectors and logits follow is as the page's options say."""

import dataclasses
import math

import pytest
import torch

from amodal.core import Batch, Column
from amodal.nn.heads.supervised import Target
from tests.golden import harness
from tests.golden.harness import Reference, defaults, golden, unit
from tests.golden.transformers import gelu, linear
from tests.methods.bench import batch

KIND = Target("kind", "classes", ("a", "b", "c"))
AGE = Target("age", "amount", mean=40.0, std=12.0)


class Guidance(Reference):
    deploy, match, feature, logit, temperature = "picture", "cosine", 1.0, 1.0, 4.0
    hidden, lock, targets = 0, False, (KIND,)

    def check_start(self):
        d, out = self.encoder.width, sum(t.width for t in self.targets)
        for name, inputs in (("head", d), ("guided_head", 2 * d)):
            if self.hidden:
                assert self.w[f"{name}.net.0.weight"].shape == (self.hidden, inputs)
                assert self.w[f"{name}.net.2.weight"].shape == (out, self.hidden)
            else:
                assert self.w[f"{name}.net.0.weight"].shape == (out, inputs)
        assert self.w["pool.query.weight"].shape == self.w["pool.key.weight"].shape == (d, d)
        assert "pool.key.bias" not in self.w and self.min_batch_size == 1
        for name, p in self.encoder.named_parameters():
            guide = any(f".{f}." in f".{name}." for f in self.encoder.fields if f != self.deploy)
            assert p.requires_grad == (not (self.lock and guide)), name

    def losses(self, batch):
        tokens = self.encoder.encode(self.encoder.tokenize(batch))
        own, guided, outputs, guided_outputs = {}, {}, {}, {}
        for r in range(batch.size):
            x = {f: t.x[t.row == r] for f, t in tokens.items() if (t.row == r).any()}
            if self.deploy not in x:
                continue
            image = x.pop(self.deploy)
            own[r] = image.mean(0)
            outputs[r] = self.classify("head", own[r])
            if x:
                text = torch.stack([unit(t.mean(0)) for t in x.values()]).mean(0)
                query = linear(self.w, "pool.query", text)
                weight = [
                    (query @ linear(self.w, "pool.key", t) / math.sqrt(len(t))).exp() for t in image
                ]
                guided[r] = sum(a * t for a, t in zip(weight, image)) / sum(weight)
                m = torch.cat([guided[r], text])
                guided_outputs[r] = self.classify("guided_head", m)
        terms = {f"predict/{t.name}": x for t, x in self.supervised(outputs, batch)}
        terms |= {f"guided/predict/{t.name}": x for t, x in self.supervised(guided_outputs, batch)}
        # what follows the guided vector and the guided logits does not move them
        zero = 0 * sum(p.sum() for p in self.parameters().values())
        n = max(len(guided), 1)
        if self.feature:
            gaps = [self.gap(own[r], guided[r].detach()) for r in guided]
            terms["feature"] = self.feature * sum(gaps, zero) / n
        if self.logit:
            gaps = [self.softened(outputs[r], guided_outputs[r].detach()) for r in guided]
            terms["logit"] = self.logit * sum(gaps, zero) / n
        return terms

    def classify(self, name, x):
        x = linear(self.w, f"{name}.net.0", x)
        return linear(self.w, f"{name}.net.2", gelu(x)) if self.hidden else x

    def supervised(self, outputs, batch):
        at = 0
        for t in self.targets:
            labels = batch.labels[t.name]
            known = dict(zip(labels.rows.tolist(), labels.values.tolist()))
            total, rows = 0 * self.w["head.net.0.bias"].sum(), [r for r in outputs if r in known]
            for r in rows:
                y = outputs[r][at : at + t.width]
                if t.kind == "classes":
                    total = total + y.logsumexp(0) - y[known[r]]
                else:
                    total = total + (y[0] - (known[r] - t.mean) / t.std) ** 2
            yield t, total / max(len(rows), 1) / len(self.targets)
            at += t.width

    def gap(self, a, b):
        if self.match == "l2":
            return ((a - b) ** 2).mean()
        return ((unit(a) - unit(b)) ** 2).sum()

    def softened(self, student, teacher):
        at, total = 0, 0
        for t in self.targets:
            y, aim = student[at : at + t.width], teacher[at : at + t.width]
            at += t.width
            if t.kind == "classes":
                p, q = ((z / self.temperature).softmax(0) for z in (aim, y))
                total = total + self.temperature**2 * (p * (p.log() - q.log())).sum()
            else:
                total = total + ((y - aim) ** 2).mean()
        return total / len(self.targets)


def guidance(**options):
    return type("Guidance", (Guidance,), options)


@pytest.mark.parametrize(
    "options",
    [
        {"fields": ("picture", "words")},
        {"fields": ("picture", "words", "facts"), "deploy": "words", "match": "l2"},
        {"feature": 0.3, "logit": 0.6, "temperature": 2.0, "hidden": 5},
        {"feature": 0.0, "lock": True},
        {"logit": 0.0},
    ],
)
def test_two_steps(options):
    own = {k: v for k, v in options.items() if k != "fields"}
    golden("mm_guidance", guidance(**own), views=("weak",), **options)


def test_two_steps_of_two_labels(monkeypatch):
    def with_age(*args, **options):
        values = batch(*args, **options)
        rows = [i for i in range(values.size) if i % 3 != 1]
        age = Column(torch.tensor([30.0 + 7 * i for i in rows]), torch.tensor(rows))
        return dataclasses.replace(values, labels=values.labels | {"age": age})

    monkeypatch.setattr(harness, "batch", with_age)
    reference = guidance(targets=(KIND, AGE))
    # amounts are compared in single precision
    options = {"view": "plain", "targets": (KIND, AGE), "tolerance": 1e-6}
    golden("mm_guidance", reference, views=("plain",), **options)


@pytest.mark.parametrize("rows", [1, 2])
def test_no_guide_and_no_label(rows, monkeypatch):
    """The first row has no picture."""

    def lonely(*args, **options):
        values: Batch = batch(*args, **options)
        columns = dict(values.columns)
        columns["words"] = columns["words"].at(columns["words"].rows == 0)
        nothing = {"kind": values.labels["kind"].at(values.labels["kind"].rows == 0)}
        return dataclasses.replace(values, columns=columns, labels=nothing)

    monkeypatch.setattr(harness, "batch", lonely)
    golden("mm_guidance", Guidance, views=("weak",), rows=rows)


def test_defaults():
    """The classifiers are linear, and the student has no text at all."""
    found = defaults("mm_guidance")
    assert found.pop("targets") == ()
    assert found == {
        "label": "",
        "task": "auto",
        "deploy": "",
        "match": "cosine",
        "feature": 1.0,
        "logit": 1.0,
        "temperature": 4.0,
        "hidden": 0,
        "lock": False,
        "view": "weak",
    }
