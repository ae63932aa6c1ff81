"""BYOL against its paper, written out: section 3.1, equations 1 and 2, and the schedule of 3.3."""

import inspect
import math

from amodal.methods.distillation.byol import PAPER_RECIPE, byol
from tests.golden import two_views as golden

TAU, PLANNED = 0.9, 4


def algorithm(naive, batch, step):
    online, target = naive.of("encoder.", batch), naive.of("teacher.", batch)
    terms = {}
    for f in ("picture", "curve"):
        one, two = f"{f}:1", f"{f}:2"
        z = [naive.head(f"projectors.{f}", online[one], "lnrl")]
        q = [naive.head(f"predictors.{f}", z[0], "lnrl")]
        z += [naive.head(f"projectors.{f}", online[two], "lnrl")]
        q += [naive.head(f"predictors.{f}", z[1], "lnrl")]
        aim = [
            naive.head(f"teacher_projectors.{f}", target[s], "lnrl").detach() for s in (one, two)
        ]
        distance = [
            (2 - 2 * golden.cosines(guess, sought).diagonal()).mean()
            for guess, sought in ((q[0], aim[1]), (q[1], aim[0]))
        ]
        terms[f"byol/{one}~{two}"] = (distance[0] + distance[1]) / 2  # the mean of two fields

    def after():
        tau = 1 - (1 - TAU) * (math.cos(math.pi * step / PLANNED) + 1) / 2
        naive.average("teacher.", "encoder.", tau)
        naive.average("teacher_projectors.", "projectors.", tau)

    return terms, after


def test_two_steps():
    method = byol(golden.encoder(), width=6, hidden=10, momentum=TAU).double()
    golden.check(method, algorithm, planned=PLANNED)


def test_numbers_and_shapes_of_the_paper():
    defaults = {n: p.default for n, p in inspect.signature(byol).parameters.items()}
    assert list(defaults.values())[1:] == [256, 4096, 0.996]
    method = byol(golden.encoder(), width=6, hidden=10)
    width = method.encoder.width
    for head, first in (("projectors", width), ("predictors", 6)):
        for layers in getattr(method, head).values():
            shapes = [tuple(p.shape) for p in layers.parameters()]
            assert shapes == [(10, first), (10,), (10,), (6, 10)]
    assert method.momentum == 0.996 and method.final_momentum == 1.0
    assert method.views == ("blurred", "solarized") and method.min_batch_size == 2
    assert (PAPER_RECIPE.optimizer, PAPER_RECIPE.lr, PAPER_RECIPE.lr_scaling) == (
        "lars",
        0.2,
        "linear/256",
    )
    assert (PAPER_RECIPE.weight_decay, PAPER_RECIPE.warmup_epochs, PAPER_RECIPE.clip) == (
        1.5e-6,
        10,
        0,
    )
    assert (PAPER_RECIPE.batch_size, PAPER_RECIPE.epochs, PAPER_RECIPE.schedule) == (
        4096,
        1000,
        "cosine",
    )


def test_the_target_has_no_gradient():
    method = byol(golden.encoder(), width=6, hidden=10)
    assert not any(
        p.requires_grad
        for part in (method.teacher, method.teacher_projectors)
        for p in part.parameters()
    )
