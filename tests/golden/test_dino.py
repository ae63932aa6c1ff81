"""DINO, Caron et al. 2021, arXiv:2104.14294: equations 1 to 4, algorithm 1, appendix C."""

import math

import pytest
import torch

from amodal.core import AmodalError
from tests.golden.harness import Reference, defaults, golden, unit


class Dino(Reference):
    temperature, teacher_temperature = 0.1, 0.04
    center_momentum, momentum = 0.9, 0.996
    prototypes = 7

    def __init__(self, page):
        super().__init__(page)
        self.teacher = self.add_network("teacher")
        self.fields = sorted({n.split(".")[1] for n in self.w if n.startswith("heads.")})

    def check_start(self):
        """The teacher begins as the student (algorithm 1), the centre at zero. The head of
        appendix C is 2048, 2048 and 256 wide; here it is a small one."""
        self.assert_shapes(
            heads__picture__mlp__0__weight=(256, self.encoder.width),
            heads__picture__mlp__2__weight=(256, 256),
            heads__picture__mlp__4__weight=(64, 256),
            heads__picture__prototypes=(self.prototypes, 64),
        )
        for key, value in self.teacher.state_dict().items():
            assert torch.equal(value, self.encoder.state_dict()[key]), key
        # about unit vectors, which the weight norm of appendix C makes of them
        assert 0.5 < self.w["heads.picture.prototypes"].norm(dim=1).mean() < 2
        for name, value in self.w.items():
            if name.startswith("teacher_heads."):
                assert torch.equal(value, self.w[name.removeprefix("teacher_")]), name
            elif name.startswith("centers."):
                assert not value.any(), name

    def head(self, name, x):
        """Appendix C: three layers with GELU, a unit vector, weight-normalised prototypes."""
        w = self.w
        for i in (0, 2, 4):
            x = x @ w[f"{name}.mlp.{i}.weight"].T + w[f"{name}.mlp.{i}.bias"]
            if i < 4:
                x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
        return unit(x) @ unit(w[f"{name}.prototypes"]).T

    def losses(self, batch):
        student = self.encoder(batch).columns
        with torch.no_grad():
            teacher = self.teacher(batch).columns
        terms, self.outputs = {}, {}
        for field in self.fields:
            views = [s for s in student if s.partition(":")[0] == field]
            s = [self.head(f"heads.{field}", student[v].values) for v in views]
            with torch.no_grad():
                t = [self.head(f"teacher_heads.{field}", teacher[v].values) for v in views[:2]]
            self.outputs[field] = torch.cat(t)
            terms[f"dino/{field}"] = self.loss(s, t, self.w[f"centers.{field}"]) / len(self.fields)
        return terms

    def loss(self, student, teacher, center):
        """Equation 3, over all pairs of two different views, the mean of their H of algorithm 1."""
        total, pairs = 0, 0
        for i, t in enumerate(teacher):
            p = torch.softmax((t - center) / self.teacher_temperature, dim=1)
            for j, s in enumerate(student):
                if i != j:
                    q = torch.softmax(s / self.temperature, dim=1)
                    total, pairs = total - (p * torch.log(q)).sum(dim=1).mean(), pairs + 1
        return total / pairs

    def after_step(self, step, steps):
        """Algorithm 1: the teacher and the centre follow; momentum rises to 1 by a cosine."""
        rest = (1 - self.momentum) * (math.cos(math.pi * step / steps) + 1) / 2
        with torch.no_grad():
            for t, s in zip(self.teacher.parameters(), self.encoder.parameters()):
                t.copy_((1 - rest) * t + rest * s)
            for name in self.w:
                if name.startswith("teacher_heads."):
                    student = self.w[name.removeprefix("teacher_")]
                    self.w[name] = (1 - rest) * self.w[name] + rest * student
            for field, outputs in self.outputs.items():
                c, m = self.w[f"centers.{field}"], self.center_momentum
                self.w[f"centers.{field}"] = m * c + (1 - m) * outputs.mean(0)


VIEWS = ("strong", "strong", "local")


def test_two_steps():
    golden("dino", Dino, views=VIEWS, fields=("picture", "signal"), prototypes=7, local_views=1)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.3, "teacher_temperature": 0.2},
        {"center_momentum": 0.5, "momentum": 0.6},
    ],
)
def test_two_steps_with_other_options(options):
    reference = type("Dino", (Dino,), dict(options))
    golden(
        "dino", reference, views=VIEWS, fields=("picture",), prototypes=7, local_views=1, **options
    )


class Scheduled(Dino):
    """The teacher's temperature rises from the first step on (section 3.1), prototypes are fixed
    at first (appendix: the last layer, for an epoch)."""

    start, warmup, fixed, done = 0.02, 0.5, 0.1, 0.0

    def head(self, name, x):
        own = self.w[f"{name}.prototypes"]
        if name.startswith("heads.") and self.done < self.fixed:
            self.w[f"{name}.prototypes"] = own.detach()
        out = super().head(name, x)
        self.w[f"{name}.prototypes"] = own
        return out

    def losses(self, batch):
        share = min(self.done / self.warmup, 1)
        self.teacher_temperature = self.start + share * (0.07 - self.start)
        return super().losses(batch)

    def after_step(self, step, steps):
        super().after_step(step, steps)
        self.done = step / steps
        self.w["progress"] = torch.tensor(self.done, dtype=self.w["progress"].dtype)


def test_the_temperature_rises_and_prototypes_begin_fixed():
    options = {"teacher_temperature": 0.07, "teacher_start": 0.02, "teacher_warmup": 0.5}
    golden(
        "dino",
        Scheduled,
        views=VIEWS,
        fields=("picture",),
        prototypes=7,
        local_views=1,
        fixed_prototypes=0.1,
        **options,
    )


@pytest.mark.parametrize("name", ["teacher_warmup", "fixed_prototypes"])
def test_shares_of_the_steps_are_shares(name):
    for wrong in (-0.1, 1.5):
        with pytest.raises(AmodalError, match=f"{name} is a share of the steps, .*{wrong}"):
            golden("dino", Dino, fields=("picture",), views=VIEWS, **{name: wrong})


def test_defaults():
    """Temperatures, momenta: section 3.1 and 3.2; outputs and crops are fewer, as the page says."""
    assert defaults("dino") == {
        "prototypes": 1024,
        "local_views": 4,
        "temperature": 0.1,
        "teacher_temperature": 0.04,
        "center_momentum": 0.9,
        "momentum": 0.996,
        "hidden": 256,
        "bottleneck": 64,
        "teacher_start": 0.04,
        "teacher_warmup": 0.0,
        "fixed_prototypes": 0.0,
    }
    reference = type("Dino", (Dino,), {"prototypes": 1024})
    crops = {"views": ("strong", "strong", *["local"] * 4), "local_views": 4}
    golden("dino", reference, fields=("picture",), prototypes=1024, **crops)
