"""MMRL++, Guo and Gu 2025, arXiv:2505.10088: section 3, and the authors' code."""

import pytest

from amodal.methods.adaptation.mmrl_pp import PAPER_RECIPE
from tests.golden.class_names import NamedClasses, hold_space
from tests.golden.harness import defaults, golden
from tests.golden.transformers import linear


class MMRLpp(NamedClasses):
    beta, rank, head_rank = 0.9, 4, 64

    def check_start(self):
        """No layer has a residual yet; one bias for each."""
        super().check_start()
        blocks, maps = self.depth - self.first + 1, "block_hook.maps.picture"
        shapes = {n: tuple(p.shape) for n, p in self.p.items() if n.startswith(maps)}
        d = self.encoder.width
        for i in range(blocks if self.rank and self.space else 0):
            assert shapes[f"{maps}.bias.{i}"] == (d,)
            assert not self.p[f"{maps}.residual.{i}.b"].any()
            assert self.p[f"{maps}.residual.{i}.a"].abs().max() > 0.01
            assert shapes[f"{maps}.residual.{i}.a"] == (self.rank, self.space)
        size = 1 + 3 * blocks if self.rank else 2 * blocks
        assert len(shapes) == (size if self.space else 1)
        low = self.w["heads.picture.parametrizations.weight.0.a"]
        assert low.shape == (min(self.head_rank, self.width, d), d)
        assert not self.w["heads.picture.parametrizations.weight.original"].requires_grad

    def layer_tokens(self, field, i):
        """A weight that all layers of an encoder share, and a difference of low rank."""
        name, bank = f"block_hook.maps.{field}", self.p["block_hook.bank"]
        if not self.space:  # tokens of each layer by themselves
            return self.p[f"{name}.tokens"][i]
        if not self.rank:
            return linear(self.p, f"{name}.linears.{i}", bank)
        difference = self.p[f"{name}.residual.{i}.b"] @ self.p[f"{name}.residual.{i}.a"]
        return bank @ (self.p[f"{name}.weight"] + difference).T + self.p[f"{name}.bias.{i}"]

    def into(self, new, left):
        """Progressive composition: most is new, the rest is of the layer below."""
        return self.beta * new + (1 - self.beta) * left

    def representation_head(self, field):
        """The frozen projection and a difference of low rank."""
        name = f"heads.{field}.parametrizations.weight"
        difference = self.w[f"{name}.0.b"] @ self.w[f"{name}.0.a"]
        return self.w[f"{name}.original"] + difference


def hold(**options):
    hold_space("mmrl_pp", MMRLpp, **{"head_rank": 4} | options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta": 0.5, "rank": 2, "head_rank": 3},
        {"beta": 1.0, "alpha": 0.3, "weight": 2.0, "scale": 10.0},
        {"beta": 0.0, "first": 1, "count": 3, "space": 8, "template": "a photo of a {}"},
        {"rank": 0, "beta": 0.4},
        {"weight": 0.0, "first": 2},
        {"space": 0, "count": 3},
    ],
)
def test_two_steps(options):
    hold(**options)


def test_other_views():
    reference = type("MMRLpp", (MMRLpp,), {"head_rank": 4})
    options = {"width": 8, "space": 16, "head_rank": 4, "also": {"view": "plain"}}
    golden("mmrl_pp", reference, views=("plain",), **options)


def test_two_steps_of_more_fields():
    hold(fields=("picture", "words", "facts"), weight=0.5)


@pytest.mark.parametrize("first", [{}, {"first": 3}])
def test_tokens_enter_from_the_sixth_of_twelve_blocks_on(first):
    hold(size="tiny", depth=4, rows=3, beta=0.7, **first)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    hold(rows=rows)


def test_defaults():
    """The authors' configuration; templates are theirs for each set of data."""
    assert defaults("mmrl_pp") == {
        "label": "",
        "targets": (),
        "text_field": "",
        "count": 5,
        "space": 512,
        "first": 0,
        "rank": 4,
        "head_rank": 64,
        "beta": 0.9,
        "alpha": 0.7,
        "weight": 1.0,
        "scale": 100.0,
        "template": "{}",
        "width": 128,
        "view": "weak",
    }
    hold(width=128, space=512, head_rank=64)
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-3, 5e-4, (0.9, 0.999))
    assert (r.schedule, r.warmup_epochs, r.clip) == ("cosine", 1.0, 0.0)
    assert (r.batch_size, r.epochs, r.resolution) == (4, 10.0, 224)
