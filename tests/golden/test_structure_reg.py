"""STRUCTURE, Gröger et al. 2025, arXiv:2506.16895: section 4, and the authors' loss."""

import itertools

import pytest
import torch

from amodal.methods.contrastive.structure_reg import PAPER_RECIPE
from tests.golden.harness import Reference, common, defaults, golden, unit


class Structure(Reference):
    temperature, weight, levels, margin, warmup = 0.05, 10.0, 1, 0.0, 4
    width, hidden, weight_by_level, bias = 8, 0, False, False

    def check_start(self):
        assert self.min_batch_size == 2 and self.encoder.space_width == self.width
        assert list(self.w) == ["steps"] and not self.w["steps"]
        frozen = {n for n, p in self.encoder.named_parameters() if not p.requires_grad}
        heads = {n for n, _ in self.encoder.named_parameters() if n.startswith("heads.")}
        assert heads and frozen == {n for n, _ in self.encoder.named_parameters()} - heads
        for head in self.encoder.heads.values():
            widths = [m.out_features for m in head.modules() if isinstance(m, torch.nn.Linear)]
            last = [m for m in head.modules() if isinstance(m, torch.nn.Linear)][-1]
            assert (last.bias is not None) == self.bias
            assert widths == ([self.hidden] if self.hidden else []) + [self.width]

    def losses(self, batch):
        features = self.encoder.features(batch).columns
        z = self.encoder.project(self.encoder.features(batch)).columns
        pairs, terms = list(itertools.combinations(z, 2)), {}
        for a, b in pairs:
            x, y = (unit(v) for v in common(z, a, b))
            logits, total, n = x @ y.T / self.temperature, 0, len(x)
            for i in range(n):
                total = total + logits[i].logsumexp(0) + logits[:, i].logsumexp(0)
                total = total - 2 * logits[i, i]
            total = total / n / 2 if n else 0 * (x.sum() + y.sum())
            terms[f"info_nce/{a}~{b}"] = total / len(pairs)
        # the authors' weight is 0 at the first step; here it is already one step up
        weight = self.weight * min(1.0, (int(self.w["steps"]) + 1) / max(self.warmup, 1))
        for f in z:  # all rows that have the field, paired or not
            loss = self.structure(features[f].values.detach(), z[f].values)
            terms[f"structure/{f}"] = weight * loss / len(z)
        return terms

    def structure(self, original, aligned):
        """Equation 3: Jensen-Shannon divergence of neighbourhoods of up to so many hops."""
        p, q = self.neighbourhoods(original), self.neighbourhoods(aligned)
        total, p_hops, q_hops = 0, p, q
        for level in range(1, self.levels + 1):
            m = (p_hops + q_hops) / 2
            divergence = 0
            for i in range(len(m)):
                for one in (p_hops, q_hops):
                    divergence = divergence + self.kl(one[i], m[i]) / 2 / len(m)
            share = 1 / level if self.weight_by_level else 1
            total = total + share * (divergence - self.margin).relu()
            p_hops, q_hops = p_hops @ p, q_hops @ q
        return total / self.levels

    def kl(self, a, b):
        return (a * (a.log() - b.log())).sum()

    def neighbourhoods(self, x):
        x = unit(x)
        x = x - x.mean(0)
        return (x @ x.T / self.temperature).softmax(1)

    def after_step(self, step, steps):
        self.w["steps"] = self.w["steps"] + 1


def hold(fields=("picture", "words"), rows=6, **options):
    # a warm-up of 4 steps: its shares are exact in single precision
    options = {"width": 8, "warmup": 4} | options
    known = {k: v for k, v in options.items() if hasattr(Structure, k)}
    reference = type("Structure", (Structure,), known)
    golden("structure_reg", reference, views=("plain",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
def test_two_steps(fields):
    hold(fields)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": 11},
        {"bias": True},
        {"hidden": 11, "bias": True},
        {"levels": 3, "weight": 4.0, "temperature": 0.5},
        {"levels": 3, "weight_by_level": True, "temperature": 0.5},
        {"margin": 0.01, "warmup": 0, "temperature": 0.3},
        {"margin": 0.9, "warmup": 2},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize("rows", [2, 3])
def test_few_rows(rows):
    hold(rows=rows)


def test_defaults():
    """The authors' configuration, `default.yaml` and `clip_structure_1.yaml`."""
    assert defaults("structure_reg") == {
        "width": 512,
        "hidden": 0,
        "bias": False,
        "isometry": False,
        "temperature": 0.05,
        "weight": 10.0,
        "levels": 1,
        "weight_by_level": False,
        "margin": 0.0,
        "warmup": 1000,
    }
    hold(width=512, warmup=1000, tolerance=1e-6)
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-3, 1e-4, (0.9, 0.95))
    assert (r.schedule, r.clip, r.batch_size, r.epochs) == ("cosine", 1.0, 4096, 1000.0)
