"""AstroM3, Rizhko and Bloom 2024, arXiv:2411.08842: every two fields of a star are matched, at a
temperature of their own; and the authors' model and configuration."""

import itertools
import math

import pytest

from amodal.core import AmodalError
from amodal.methods.contrastive.astrom3 import PAPER_RECIPE
from tests.golden.harness import Reference, common, defaults, golden, unit
from tests.methods.bench import method


class AstroM3(Reference):
    """The mean over pairs. The authors' code sums pairs and directions, which is this times twice
    the number of pairs."""

    temperature, min_scale, max_scale, width = 0.01, 1.0, 100.0, 8

    def __init__(self, page):
        super().__init__(page)
        self.pairs = list(itertools.combinations(self.encoder.fields, 2))

    def check_start(self):
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        assert set(self.w) == {f"learned.{a}~{b}.log" for a, b in self.pairs}
        for log in self.w.values():
            assert abs(log.detach() + math.log(self.temperature)) < 1e-6
        assert all(p.requires_grad for p in (*self.w.values(), *self.encoder.parameters()))

    def scale(self, a, b):
        """Between its bounds; there the gradient still arrives."""
        log = self.w[f"learned.{a}~{b}.log"]
        value = log.detach().exp().clamp(self.min_scale, self.max_scale)
        return value * (log - log.detach()).exp()

    def losses(self, batch):
        columns = self.encoder(batch).columns
        terms = {}
        for a, b in self.pairs:
            x, y = (unit(z) for z in common(columns, a, b))
            n = len(x)
            total = 0 * (x.sum() + y.sum())
            if n > 1:
                logits = x @ y.T * self.scale(a, b)
                for i in range(n):
                    total = total + logits[i].logsumexp(0) - logits[i, i]
                    total = total + logits[:, i].logsumexp(0) - logits[i, i]
                total = total / n / 2
            terms[f"info_nce/{a}~{b}"] = total / len(self.pairs)
        return terms


def hold(fields=("signal", "words", "facts"), rows=6, **options):
    options = {"width": 8} | options
    reference = type("AstroM3", (AstroM3,), options)
    golden("astrom3", reference, views=("weak",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize(
    "fields",
    [("signal", "facts"), ("signal", "words", "facts"), ("picture", "words", "signal", "facts")],
)
@pytest.mark.parametrize("temperature", [0.01, 0.3])
def test_two_steps(fields, temperature):
    hold(fields, temperature=temperature)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.1, "max_scale": 4.0},
        {"temperature": 2.0},
        {"temperature": 2.0, "min_scale": 0.1},
        {"temperature": 0.001, "max_scale": 500.0},
    ],
)
def test_two_steps_at_the_bounds(options):
    hold(**options)


def test_two_steps_with_the_papers_kinds_of_encoder():
    hold(
        fields=("signal", "facts"),
        backbones={
            "signal": "informer:length=8,width=8,layers=1,heads=2,hidden=8",
            "facts": "mlp:width=8,layers=2",
        },
    )


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    """Of one row there is no pair, of two rows one or none."""
    hold(rows=rows)


def test_defaults():
    """512 and 100, and the bounds, are the authors'."""
    assert defaults("astrom3") == {
        "width": 512,
        "temperature": 0.01,
        "min_scale": 1.0,
        "max_scale": 100.0,
    }
    hold(width=512)
    with pytest.raises(AmodalError, match="compares fields"):
        method("astrom3", sources=("signal",))
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == (
        "adamw",
        0.00392,
        0.00467,
        (0.926, 0.999),
    )
    assert (r.schedule, r.decay_rate, r.patience, r.warmup_epochs) == ("plateau", 0.1125, 3, 10.0)
    assert (r.clip, r.batch_size, r.epochs) == (45.0, 512, 100.0)
