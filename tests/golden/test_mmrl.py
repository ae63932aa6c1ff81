"""MMRL, Guo and Gu 2025, arXiv:2503.08497: section 3, and the authors' code."""

import pytest

from amodal.methods.adaptation.mmrl import PAPER_RECIPE
from tests.golden.class_names import NamedClasses, hold_space
from tests.golden.harness import defaults, golden
from tests.golden.transformers import linear


class MMRL(NamedClasses):
    def layer_tokens(self, field, i):
        """Equation 4: a linear map for each layer and each encoder."""
        return linear(self.p, f"block_hook.maps.{field}.linears.{i}", self.p["block_hook.bank"])

    def into(self, new, left):
        """What tokens have become is given up."""
        return new

    def representation_head(self, field):
        return self.w[f"heads.{field}.weight"]


def hold(**options):
    hold_space("mmrl", MMRL, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.3, "weight": 2.0, "scale": 10.0},
        {"weight": 0.0, "first": 2},
        {"count": 3, "space": 8, "template": "a photo of a {}"},
    ],
)
def test_two_steps(options):
    hold(**options)


class Independent(MMRL):
    """Deep prompts, with which the paper compares."""

    def layer_tokens(self, field, i):
        return self.p[f"block_hook.maps.{field}.tokens"][i]


def test_two_steps_of_tokens_without_a_space():
    options = {"space": 0, "width": 8}
    reference = type("Independent", (Independent,), options)
    golden("mmrl", reference, views=("weak",), **options)


def test_other_views():
    reference = type("MMRL", (MMRL,), {})
    options = {"width": 8, "space": 16, "also": {"view": "plain"}}
    golden("mmrl", reference, views=("plain",), **options)


def test_names_are_written_with_spaces():
    names = ("red_boat", "sea", "a_boat_on_the_sea")
    target = {"name": "kind", "kind": "classes", "classes": names}
    reference = type("MMRL", (MMRL,), {"classes": names, "template": "see {}"})
    golden("mmrl", reference, views=("weak",), targets=(target,), width=8, template="see {}")


def test_two_steps_of_more_fields():
    hold(fields=("picture", "words", "facts"), weight=0.5)


@pytest.mark.parametrize("first", [{}, {"first": 3}])
def test_tokens_enter_from_the_sixth_of_twelve_blocks_on(first):
    hold(size="tiny", depth=4, rows=3, **first)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    hold(rows=rows)


def test_defaults():
    """The authors' configuration; templates are theirs for each set of data."""
    assert defaults("mmrl") == {
        "label": "",
        "targets": (),
        "text_field": "",
        "count": 5,
        "space": 512,
        "first": 0,
        "alpha": 0.7,
        "weight": 1.0,
        "scale": 100.0,
        "template": "{}",
        "width": 128,
        "view": "weak",
    }
    hold(width=128, space=512)
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-3, 5e-4, (0.9, 0.999))
    assert (r.schedule, r.warmup_epochs, r.clip) == ("cosine", 1.0, 0.0)
    assert (r.batch_size, r.epochs, r.resolution) == (4, 10.0, 224)
