"""V2L, Wang et al. 2022, arXiv:2207.12994: one encoder learns coarse categories by a softmax with a margin
(CosFace) and then every record from its own views; another learns from titles (CLIP). Their unit
vectors, one behind the other, are what is searched with."""

import itertools

import pytest
import torch

from amodal.core import AmodalError
from tests.golden.harness import common, defaults, golden, unit
from tests.golden.pairs import LearnedTemperature
from tests.methods.bench import batch, exact, method


class V2l(LearnedTemperature):
    log = "scale.log"
    stage, label, coarse, margin, sharpness = 0, "kind", 0.5, 0.35, 30.0
    view_temperature = 0.1

    def __init__(self, page):
        page.on_stage_start(self.stage)
        super().__init__(page)
        self.stages = page.stages

    def check_start(self):
        fine = not self.label
        assert self.stages == ((1.0,) if fine or self.coarse == 1 else (self.coarse, 1.0))
        assert self.min_batch_size == 2
        assert [m.space_width for m in self.encoder.members] == [self.width, self.width]
        assert [m.pool_name for m in self.encoder.members] == ["gem", "gem"]
        begin = self.w["scale.log"].detach().exp()
        assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)
        if self.label:
            self.assert_shapes(prototypes=(3, self.width))
            assert self.w["prototypes"].requires_grad is (self.stage == 0)
        one, other = (dict(m.named_parameters()) for m in self.encoder.members)
        assert all(p.requires_grad for p in (*one.values(), *other.values()))

    def losses(self, batch):
        visual, named = (m(batch).columns for m in self.encoder.members)
        fields = list(dict.fromkeys(s.split(":")[0] for s in named))
        pairs, terms = list(itertools.combinations([f"{f}:1" for f in fields], 2)), {}
        for a, b in pairs:
            terms[f"info_nce/{a}~{b}"] = self.info_nce(*common(named, a, b)) / len(pairs)
        for f in fields:
            if self.stage == 0 and self.label:
                terms[f"margin/{f}"] = self.cosface(visual[f"{f}:1"], batch) / len(fields)
            else:
                x, y = common(visual, f"{f}:1", f"{f}:2")
                terms[f"nt_xent/{f}"] = self.nt_xent(x, y) / len(fields)
        return terms

    def info_nce(self, x, y):
        if len(x) < 2:
            return 0 * (x.sum() + y.sum())
        logits, n = unit(x) @ unit(y).T * self.scale(), len(x)
        total = sum(logits[i].logsumexp(0) + logits[:, i].logsumexp(0) for i in range(n))
        return (total / 2 - logits.diagonal().sum()) / n

    def cosface(self, column, batch):
        known = batch.labels[self.label]
        label = dict(zip(known.rows.tolist(), known.values.tolist()))
        at = [(z, label[r]) for z, r in zip(column.values, column.rows.tolist()) if r in label]
        total = 0 * (column.values.sum() + self.w["prototypes"].sum())
        for z, y in at:
            cosines = unit(self.w["prototypes"]) @ unit(z)
            own = torch.zeros(3).double()
            own[y] = self.margin
            logits = self.sharpness * (cosines - own)
            total = total + logits.logsumexp(0) - logits[y]
        return total / max(len(at), 1)

    def nt_xent(self, x, y):
        """SimCLR: each view finds the other among all other views of the batch."""
        z = unit(torch.cat([x, y]))
        n, total = len(x), 0 * z.sum()
        for i in range(2 * n if n > 1 else 0):
            logits = z @ z[i] / self.view_temperature
            others = torch.stack([logits[j] for j in range(2 * n) if j != i])
            total = total + others.logsumexp(0) - logits[(i + n) % (2 * n)]
        return total / max(2 * n, 1)


def hold(fields=("picture", "words", "signal"), rows=6, stage=0, **options):
    options = {"width": 8} | options
    reference = type("V2l", (V2l,), options | {"stage": stage})
    if options.get("label", "kind") == "":
        options["classes"] = 0
    golden("v2l", reference, views=("weak", "strong"), fields=fields, rows=rows, **options)


@pytest.mark.parametrize("stage", [0, 1])
def test_two_steps(stage):
    hold(stage=stage)


@pytest.mark.parametrize(
    "options",
    [
        {"margin": 0.1, "sharpness": 8.0},
        {"stage": 1, "view_temperature": 0.4},
        {"temperature": 0.5},
        {"max_scale": 5.0},
        {"coarse": 0.2},
        {"coarse": 1.0},
        {"label": ""},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_few_rows(rows, stage):
    """Of one row there is no picture; of four rows one is without a label."""
    hold(rows=rows, stage=stage)
    hold(("picture", "words", "signal", "facts"), rows=rows, stage=stage)


def test_vectors_are_those_of_both_one_behind_the_other():
    m = exact(method("v2l", width=8)).eval()
    b = exact(batch(("plain",)))
    parts = [member(b) for member in m.encoder.members]
    for field, column in m.encoder(b).columns.items():
        want = torch.cat([unit(p[field].values) for p in parts], 1)
        torch.testing.assert_close(unit(column.values), unit(want), rtol=1e-9, atol=1e-11)


def test_wrong_options():
    with pytest.raises(AmodalError, match="coarse"):
        method("v2l", coarse=1.5)
    with pytest.raises(AmodalError, match="coarse"):
        method("v2l", coarse=-0.1)


def test_defaults():
    """CosFace's margin; its scale of 30, SimCLR's 0.1 and CLIP's 0.07."""
    assert defaults("v2l") == {
        "label": "",
        "classes": 0,
        "coarse": 0.5,
        "margin": 0.35,
        "sharpness": 30.0,
        "view_temperature": 0.1,
        "width": 128,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    hold(width=128)
    hold(width=128, stage=1)
