"""DINOv2, Oquab et al. 2024, arXiv:2304.07193: section 4."""

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError, Recipe
from tests.golden.harness import defaults, golden, unit
from tests.golden.masked_distillation import MaskedDistillation
from tests.methods.bench import method

VIEWS = ("dinov2", "dinov2_solarized", "dinov2_local")
SMALL = {"prototypes": 7, "local_views": 1}


class DINOv2(MaskedDistillation):
    teacher_temperature = patch_temperature = 0.07
    momentum, shared_head = 0.994, False
    teacher_warmup, fixed_prototypes = 0.06, 0.002
    iterations, koleo_weight = 3, 0.1

    def check_start(self):
        super().check_start()
        assert self.encoder.pool_name == "cls"
        assert not any("center" in name for name in self.w)

    def targets(self, field, vectors, tokens, hidden):
        """Sinkhorn-Knopp centring: of the vectors of both views together, and of all hidden
        tokens."""
        temperature = self.now(self.teacher_temperature)
        across = self.balanced(torch.cat(vectors), temperature).chunk(2)
        some = [t[h] for t, h in zip(tokens, hidden)]
        within = self.balanced(torch.cat(some), temperature)
        return across, within.split([len(t) for t in some])

    def balanced(self, logits, temperature):
        """Three rounds: each prototype gets 1 / K of the mass, then each sample 1 / N."""
        q = torch.exp(logits / temperature)
        for _ in range(self.iterations):
            q = q / q.sum(0, keepdim=True) / q.shape[1]
            q = q / q.sum(1, keepdim=True) / max(len(q), 1)
        return q * len(q)

    def further(self, field, vectors):
        """KoLeo within the batch, of each large view by itself, on vectors before the head."""
        total = 0
        for vector in vectors:
            z, terms = unit(vector), []
            for i in range(len(z)):
                others = [j for j in range(len(z)) if j != i]
                cosines = torch.stack([z[i] @ z[j] for j in others]) if others else None
                if others:
                    nearest = z[others[int(cosines.argmax())]]
                    # the program adds 1e-8 to each coordinate and to the distance
                    gap = (z[i] - nearest + 1e-8).square().sum().sqrt()
                    terms.append(-(gap + 1e-8).log())
            total = total + (sum(terms) / len(terms) if terms else 0 * vector.sum())
        return {f"koleo/{field}": self.koleo_weight * total / len(self.fields)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "shared_head": True,
            "temperature": 0.3,
            "teacher_temperature": 0.2,
            "teacher_warmup": 0.0,
            "fixed_prototypes": 0.0,
            "koleo_weight": 0.5,
            "iterations": 1,
        },
        {
            "masked": 1.0,
            "ratio_low": 0.3,
            "ratio_high": 0.4,
            "momentum": 0.6,
            "patch_weight": 2.0,
            "teacher_start": 0.02,
            "teacher_warmup": 0.4,
            "fixed_prototypes": 0.1,
            "hidden": 32,
            "bottleneck": 8,
        },
    ],
)
def test_two_steps(options, larger_pictures):
    reference = type("DINOv2", (DINOv2,), dict(options))
    golden("dinov2", reference, views=VIEWS, fields=("picture", "signal"), **SMALL | options)


def test_two_steps_of_other_fields_and_without_local_views():
    options = {"local_views": 0, "masked": 0.8}
    reference = type("DINOv2", (DINOv2,), {"masked": 0.8})
    golden("dinov2", reference, views=VIEWS[:2], fields=("picture", "words", "facts"),
           **SMALL | options)  # fmt: skip


@pytest.mark.parametrize("rows", [1, 2])
def test_no_picture_and_one(rows):
    golden("dinov2", DINOv2, views=VIEWS, fields=("picture",), rows=rows, **SMALL)


def test_defaults():
    """The authors' configurations; outputs, layers and crops are fewer here."""
    assert defaults("dinov2") == {
        "prototypes": 1024,
        "local_views": 4,
        "shared_head": False,
        "hidden": 256,
        "bottleneck": 64,
        "masked": 0.5,
        "ratio_low": 0.1,
        "ratio_high": 0.5,
        "temperature": 0.1,
        "teacher_temperature": 0.07,
        "teacher_start": 0.04,
        "teacher_warmup": 0.06,
        "fixed_prototypes": 0.002,
        "iterations": 3,
        "momentum": 0.994,
        "patch_weight": 1.0,
        "koleo_weight": 0.1,
        "registers": 0,
        "layer_scale": 0.0,
    }
    page = method("dinov2", sources=("picture",), prototypes=1024, local_views=4)
    assert len(page.views) == 6 and page.views[:3] == VIEWS and page.views[5] == "dinov2_local"
    assert page.heads["picture"].prototypes.shape == (1024, 64)


def test_the_recipe_of_the_paper():
    assert methods.paper_recipe("dinov2") == Recipe(
        optimizer="adamw",
        lr=2e-4,
        lr_scaling="sqrt/1024",
        lr_multipliers={"encoder.tokenizers.": 0.2},
        weight_decay=0.04,
        weight_decay_end=0.2,
        betas=(0.9, 0.999),
        schedule="cosine",
        warmup_steps=80 * 1250,
        clip=3.0,
        drop_path=0.4,
        batch_size=32 * 96,
        steps=500 * 1250,
    )


@pytest.mark.parametrize("wrong, message", [
    ({"masked": 1.5}, "masked is a share"),
    ({"ratio_low": 0.6}, "ratio_low is at most ratio_high"),
    ({"iterations": 0}, "iterations"),
])  # fmt: skip
def test_wrong_numbers(wrong, message):
    with pytest.raises(AmodalError, match=message):
        method("dinov2", sources=("picture",), **wrong)
