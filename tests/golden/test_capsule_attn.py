"""Routing with self-attention for capsules, Duarte et al. 2021, arXiv:2112.00775, section 3. Dynamic
routing: Sabour et al. 2017, arXiv:1710.09829, procedure 1. EM routing: Hinton et al. 2018, procedure 1.
Masked margin softmax: Ilharco et al. 2019, arXiv:1909.08782, equations 2 to 4."""

import itertools
import math

import pytest
import torch

from tests.golden.harness import common, defaults, golden, unit
from tests.golden.pairs import LearnedTemperature
from tests.golden.transformers import linear


class Capsules(LearnedTemperature):
    capsules, pose, routing, width, margin, temperature = 6, 4, "attention", 8, 0.001, 0.07
    label = "kind"

    def check_start(self):
        super().check_start()
        n, d = self.capsules, self.pose
        w = dict(self.encoder.named_parameters())
        for f in self.encoder.fields:
            assert w[f"heads.{f}.poses.weight"].shape == (n * d, self.encoder.width)
            assert w[f"heads.{f}.active.weight"].shape == (n, self.encoder.width)
            assert w[f"heads.{f}.out.linear.weight"].shape == (self.width, n * d)
            assert w[f"heads.{f}.out.gate.weight"].shape == (self.width, self.width)
            if self.routing != "attention":
                votes = w[f"heads.{f}.routing.votes.weight"]
                assert votes.shape == (n, n, d, d) and 0.9 < votes.std() * d**0.5 < 1.1
            if self.routing == "em":
                for name in ("use", "active"):
                    assert not w[f"heads.{f}.routing.{name}"].any()

    def losses(self, batch):
        features = self.encoder.features(batch)
        self.p = dict(self.encoder.named_parameters())
        self.item = {}
        if self.label:
            labels = batch.labels["kind"]
            self.item = dict(zip(labels.rows.tolist(), labels.values.tolist()))
        terms, pairs = {}, list(itertools.combinations(features.columns, 2))
        for a, b in pairs:
            rows = [r for r in features[a].rows.tolist() if r in features[b].rows.tolist()]
            x, y = common(features.columns, a, b)
            x, y = (
                torch.stack([unit(self.head(f, v)) for v in z]) if rows else z[:, : self.width]
                for f, z in ((a, x), (b, y))
            )
            terms[f"margin/{a}~{b}"] = self.mms(x @ y.T, rows) / len(pairs)
        return terms

    def mms(self, similarity, rows):
        """Both directions are added; other rows of the same item are no negatives. The margin is of
        logits: the paper has neither a temperature nor lengths of 1."""
        n = len(rows)
        if n < 2:
            return 0 * similarity.sum()
        total = 0
        for s in (similarity, similarity.T):
            for i in range(n):
                positive = s[i, i] * self.scale() - self.margin
                others = [
                    s[i, j] * self.scale() for j in range(n) if j != i and not self.same(rows, i, j)
                ]
                total = total + torch.stack([positive, *others]).logsumexp(0) - positive
        return total / n

    def same(self, rows, i, j):
        a, b = self.item.get(rows[i]), self.item.get(rows[j])
        return a is not None and a == b

    def head(self, f, x):
        """Primary capsules, routing, and a gated linear unit of what is active."""
        name = f"heads.{f}"
        poses = linear(self.p, f"{name}.poses", x).view(self.capsules, self.pose)
        active = torch.sigmoid(linear(self.p, f"{name}.active", x))
        poses, active = getattr(self, self.routing)(f"{name}.routing", poses, active)
        x = (active[:, None] * poses).flatten()
        x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()  # reconstructed
        y = linear(self.p, f"{name}.out.linear", x)
        return y * torch.sigmoid(linear(self.p, f"{name}.out.gate", y))

    def attention(self, name, poses, active):
        """Keys, queries and values are linear maps of poses; capsules compete by a softmax."""
        x = active[:, None] * poses
        q, k, v = (linear(self.p, f"{name}.{n}", x) for n in ("query", "key", "value"))
        routed = torch.softmax(q @ k.T / math.sqrt(self.pose), 1) @ v
        return routed, torch.softmax(linear(self.p, f"{name}.activate", routed)[:, 0], 0)

    def votes(self, name, poses):
        """(input, output, pose)"""
        w = self.p[f"{name}.votes.weight"]
        made = [[poses[i] @ w[i, j] for j in range(self.capsules)] for i in range(self.capsules)]
        return torch.stack([torch.stack(row) for row in made])

    def dynamic(self, name, poses, active):
        """Three iterations; a capsule's length says whether it is active."""
        u = self.votes(name, active[:, None] * poses)
        b = torch.zeros(self.capsules, self.capsules).double()
        for _ in range(3):
            c = torch.softmax(b, 1)
            s = (c[:, :, None] * u).sum(0)
            square = (s * s).sum(1, keepdim=True)
            v = square / (1 + square) * s / square.sqrt()
            b = b + (u * v).sum(2)
        return v, torch.ones(self.capsules).double()

    def em(self, name, poses, active):
        """Three iterations, whose inverse temperature rises to 1. A variance is at least 1e-4."""
        v, n = self.votes(name, poses), self.capsules
        use, on = self.p[f"{name}.use"], self.p[f"{name}.active"]
        r = torch.full((n, n), 1 / n).double()
        for step in (1, 2, 3):
            weight = r * active[:, None]
            above, mean, log_density = [], [], []
            for j in range(n):
                mass = weight[:, j].sum()
                mean.append((weight[:, j, None] * v[:, j]).sum(0) / mass)
                far = (v[:, j] - mean[j]) ** 2
                variance = (weight[:, j, None] * far).sum(0) / mass + 1e-4
                cost = ((use[j] + variance.sqrt().log()) * mass).sum()
                above.append(torch.sigmoid(step / 3 * (on[j] - cost)))
                gauss = -far / (2 * variance) - (2 * math.pi * variance).log() / 2
                log_density.append(gauss.sum(1))
            p = torch.stack(above) * torch.stack(log_density, 1).exp()
            r = p / p.sum(1, keepdim=True)
        return torch.stack(mean), torch.stack(above)


def hold(fields=("picture", "words"), rows=6, tolerance=1e-9, **options):
    options = {"capsules": 6, "pose": 4, "width": 8} | options
    reference = type("Capsules", (Capsules,), {"label": "kind"} | options)
    golden(
        "capsule_attn",
        reference,
        views=("weak",),
        fields=fields,
        rows=rows,
        tolerance=tolerance,
        **options,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label": ""},
        {"temperature": 0.5, "margin": 0.3},
        {"temperature": 0.005},
        {"capsules": 3, "pose": 5, "width": 7},
    ],
)
def test_two_steps(options):
    hold(**options)


@pytest.mark.parametrize("routing", ["dynamic", "em"])
def test_two_steps_of_other_routings(routing):
    # densities of votes are small and large
    hold(routing=routing, label="", tolerance=1e-9 if routing == "dynamic" else 1e-7)


def test_two_steps_of_more_fields():
    hold(("picture", "words", "facts"), rows=8)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows)


def test_defaults():
    assert defaults("capsule_attn") == {
        "capsules": 128,
        "pose": 32,
        "routing": "attention",
        "width": 512,
        "margin": 0.001,
        "temperature": 0.07,
        "label": "",
    }
