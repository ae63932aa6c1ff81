"""iBOT, Zhou et al. 2022, arXiv:2111.07832: equations 1 to 3, algorithm 1, section 3.3."""

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError, Recipe
from tests.golden.harness import defaults, golden
from tests.golden.masked_distillation import MaskedDistillation
from tests.methods.bench import method

VIEWS = ("ibot", "ibot_solarized", "ibot_local")
SMALL = {"prototypes": 7, "local_views": 1}


class IBOT(MaskedDistillation):
    center_momentum = 0.9

    def check_start(self):
        super().check_start()
        assert self.encoder.pool_name == "cls"
        assert {n for n in self.w if "center" in n} == {
            f"{name}.{f}" for name in ("centers", "patch_centers") for f in self.fields
        }

    def targets(self, field, vectors, tokens, hidden):
        """Equation 1 and 2: centred and sharpened, each by its own centre and temperature."""

        def probable(logits, center, temperature):
            return torch.softmax((logits - self.w[f"{center}.{field}"]) / temperature, 1)

        # the centre of tokens is of all of them, hidden or not
        self.seen[field] = torch.cat(vectors), torch.cat(tokens)
        return [probable(t, "centers", self.now(self.teacher_temperature)) for t in vectors], [
            probable(t[h], "patch_centers", self.now(self.patch_temperature))
            for t, h in zip(tokens, hidden)
        ]

    def after_step(self, step, steps):
        super().after_step(step, steps)
        m = self.center_momentum
        for field, both in self.seen.items():
            for name, logits in zip((f"centers.{field}", f"patch_centers.{field}"), both):
                if len(logits):
                    self.w[name] = m * self.w[name] + (1 - m) * logits.mean(0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "shared_head": False,
            "temperature": 0.3,
            "teacher_temperature": 0.2,
            "patch_temperature": 0.5,
            "teacher_warmup": 0.0,
            "fixed_prototypes": 0.0,
        },
        {
            "masked": 1.0,
            "ratio_low": 0.3,
            "ratio_high": 0.4,
            "center_momentum": 0.5,
            "momentum": 0.6,
            "patch_weight": 2.0,
            "teacher_start": 0.02,
            "teacher_warmup": 0.2,
            "fixed_prototypes": 0.1,
            "hidden": 32,
            "bottleneck": 8,
        },
    ],
)
def test_two_steps(options, larger_pictures):
    reference = type("IBOT", (IBOT,), dict(options))
    golden("ibot", reference, views=VIEWS, fields=("picture", "signal"), **SMALL | options)


def test_two_steps_of_other_fields_and_without_local_views():
    options = {"local_views": 0, "masked": 0.8}
    reference = type("IBOT", (IBOT,), {"masked": 0.8})
    golden("ibot", reference, views=VIEWS[:2], fields=("picture", "words", "facts"),
           **SMALL | options)  # fmt: skip


def test_one_row_without_a_picture():
    golden("ibot", IBOT, views=VIEWS, fields=("picture",), rows=1, **SMALL)


def test_defaults():
    """The authors' arguments and published runs; outputs, layers and crops are fewer here."""
    assert defaults("ibot") == {
        "prototypes": 1024,
        "local_views": 4,
        "shared_head": True,
        "hidden": 256,
        "bottleneck": 64,
        "masked": 0.5,
        "ratio_low": 0.1,
        "ratio_high": 0.5,
        "temperature": 0.1,
        "teacher_temperature": 0.04,
        "patch_temperature": 0.07,
        "teacher_start": 0.04,
        "teacher_warmup": 0.3,
        "fixed_prototypes": 0.01,
        "center_momentum": 0.9,
        "momentum": 0.996,
        "patch_weight": 1.0,
    }
    page = method("ibot", sources=("picture",), prototypes=1024, local_views=4)
    assert len(page.views) == 6 and page.views[:3] == VIEWS and page.views[5] == "ibot_local"
    assert page.heads["picture"].prototypes.shape == (1024, 64)


def test_the_recipe_of_the_paper():
    assert methods.paper_recipe("ibot") == Recipe(
        optimizer="adamw",
        lr=5e-4,
        lr_scaling="linear/256",
        weight_decay=0.04,
        weight_decay_end=0.4,
        betas=(0.9, 0.999),
        schedule="cosine",
        warmup_epochs=10.0,
        clip=3.0,
        drop_path=0.1,
        batch_size=1024,
        epochs=800.0,
    )


@pytest.mark.parametrize("name", [
    "masked", "ratio_low", "ratio_high", "teacher_warmup", "fixed_prototypes",
])  # fmt: skip
def test_shares_are_shares(name):
    for wrong in (-0.1, 1.5):
        with pytest.raises(AmodalError, match=f"{name} is a share.*{wrong}"):
            method("ibot", sources=("picture",), **{name: wrong})
    with pytest.raises(AmodalError, match="ratio_low is at most ratio_high"):
        method("ibot", sources=("picture",), ratio_low=0.6)
