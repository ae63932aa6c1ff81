"""Modality-augmented self-distillation, McKinzie et al. 2023, arXiv:2304.04385, section 4.1: what is said
of some fields follows what is said of all."""

import dataclasses

import pytest
import torch

from amodal import methods
from amodal.core import Column
from amodal.masking.modality_dropout import random_subsets
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target
from tests.golden import harness
from tests.golden.harness import Reference, defaults, golden
from tests.golden.transformers import block, gelu, linear, norm
from tests.methods.bench import batch, fields

KIND = Target("kind", "classes", ("a", "b", "c"))
AGE = Target("age", "amount", mean=40.0, std=12.0)


class SelfDistilled(Reference):
    learn, teacher, weight, temperature, hidden, targets = "", "", 1.0, 1.0, 0, (KIND,)
    trunk = "joint"

    def check_start(self):
        assert self.encoder.trunk == self.trunk and self.min_batch_size == 1
        d, out = self.encoder.width, sum(t.width for t in self.targets)
        inputs = d if self.trunk == "joint" else d * len(self.encoder.fields)
        if self.hidden:
            self.assert_shapes(
                head__net__0__weight=(self.hidden, inputs), head__net__2__weight=(out, self.hidden)
            )
        else:
            self.assert_shapes(head__net__0__weight=(out, inputs))

    def losses(self, batch):
        self.p = dict(self.encoder.named_parameters())
        tokens, every = self.encoder.tokenize(batch), list(self.encoder.fields)
        self.has = {
            r: {f: t.x[t.row == r] for f, t in tokens.items() if (t.row == r).any()}
            for r in range(batch.size)
        }
        fields_of = {
            name: [f.strip() for f in text.split(",")] if text else every
            for name, text in (("learn", self.learn), ("teacher", self.teacher))
        }
        learnt = self.outputs({r: fields_of["learn"] for r in self.has})
        terms = {f"predict/{t.name}": x for t, x in self.supervised(learnt, batch)}
        if not self.weight:
            return terms
        present = {f: torch.tensor([f in x for x in self.has.values()]) for f in every}
        subsets = random_subsets(present, batch.seeds)
        student = self.outputs({r: [f for f in every if subsets[f][r]] for r in self.has})
        with torch.no_grad():
            teacher = self.outputs({r: fields_of["teacher"] for r in self.has})
        rows = [r for r in student if r in teacher]
        gaps = [self.gap(student[r], teacher[r]) for r in rows]
        total = sum(gaps, 0 * self.w["head.net.0.bias"].sum())
        return terms | {"distill": self.weight * total / max(len(rows), 1)}

    def outputs(self, seen):
        """Row -> outputs, of rows that have any of the fields that are seen."""
        found = {}
        for r, names in seen.items():
            x = {f: t for f, t in self.has[r].items() if f in names}
            if x and self.trunk == "joint":
                found[r] = self.head(self.through("all", torch.cat(list(x.values()))))
            elif x:
                absent = {f: self.w[f"head.absent.{f}"] for f in self.encoder.fields}
                z = absent | {f: self.through(f, t) for f, t in x.items()}
                found[r] = self.head(torch.cat([z[f] for f in sorted(z)]))
        return found

    def through(self, trunk, x):
        for i in range(2):
            x = block(self.p, f"trunks.{trunk}.blocks.{i}", x, self.encoder.num_heads)
        return norm(self.p, f"trunks.{trunk}.norm", x).mean(0)

    def head(self, x):
        y = linear(self.w, "head.net.0", x)
        return linear(self.w, "head.net.2", gelu(y)) if self.hidden else y

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

    def gap(self, student, teacher):
        """The divergence from the teacher; of amounts, the squared error. The mean over labels."""
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


def distilled(**options):
    return type("SelfDistilled", (SelfDistilled,), options)


@pytest.mark.parametrize(
    "options",
    [
        {"fields": ("picture", "words")},
        {"fields": ("picture", "words", "facts"), "learn": "words", "teacher": "picture, facts"},
        {"weight": 0.3, "temperature": 2.0, "hidden": 5},
        {"weight": 0.0, "learn": "picture"},
    ],
)
def test_two_steps(options):
    own = {k: v for k, v in options.items() if k != "fields"}
    golden("mm_robustness", distilled(**own), views=("weak",), **options)


def test_two_steps_of_towers(monkeypatch):
    """Without a joint trunk, fields stand side by side, and one learned for what is not seen."""

    def method(name, sources, size, **options):
        torch.manual_seed(0)
        encoder = Encoder(fields(sources), size=size, trunk="separate")
        return methods.build(name, encoder, targets=(KIND,), **options)

    monkeypatch.setattr(harness, "method", method)
    names = ("picture", "words", "facts")
    golden("mm_robustness", distilled(trunk="separate"), views=("weak",), fields=names)


def test_two_steps_of_two_labels(monkeypatch):
    def with_age(*args, **options):
        values = batch(*args, **options)
        rows = [i for i in range(values.size) if i % 3 != 1]
        age = Column(torch.tensor([30.0 + 7 * i for i in rows]), torch.tensor(rows))
        return dataclasses.replace(values, labels=values.labels | {"age": age})

    monkeypatch.setattr(harness, "batch", with_age)
    # amounts are compared in single precision
    options = {"view": "plain", "targets": (KIND, AGE), "tolerance": 1e-6}
    golden("mm_robustness", distilled(targets=(KIND, AGE)), views=("plain",), **options)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    options = {"learn": "words", "teacher": "words"}
    golden("mm_robustness", distilled(**options), views=("weak",), rows=rows, **options)


def test_defaults():
    found = defaults("mm_robustness")
    assert found.pop("targets") == ()
    assert found == {
        "label": "",
        "task": "auto",
        "learn": "",
        "teacher": "",
        "weight": 1.0,
        "temperature": 1.0,
        "hidden": 0,
        "view": "weak",
    }
