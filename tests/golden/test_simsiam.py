"""SimSiam against its paper, written out: algorithm 1 and section 3, equations 1 to 4."""

import inspect

import pytest
import torch

from amodal.methods.distillation.simsiam import PAPER_RECIPE, simsiam
from amodal.objectives.negative_cosine import minus_cosine
from tests.golden import two_views as golden


def algorithm(naive, batch, step):
    embedded = naive.of("encoder.", batch)
    terms = {}
    for f in ("picture", "curve"):
        one, two = f"{f}:1", f"{f}:2"
        z = [naive.head(f"projectors.{f}", embedded[s], "lnrlnrln") for s in (one, two)]
        p = [naive.head(f"predictors.{f}", x, "lnrl") for x in z]
        d = [
            -golden.cosines(guess, sought.detach()).diagonal().mean()
            for guess, sought in ((p[0], z[1]), (p[1], z[0]))
        ]
        terms[f"simsiam/{one}~{two}"] = (d[0] / 2 + d[1] / 2) / 2  # the mean of two fields
    return terms, lambda: None


def test_two_steps():
    method = simsiam(golden.encoder(), width=6, hidden=10, predictor_hidden=4).double()
    golden.check(method, algorithm)


def test_numbers_and_shapes_of_the_paper():
    defaults = {n: p.default for n, p in inspect.signature(simsiam).parameters.items()}
    assert list(defaults.values())[1:] == [2048, 2048, 512]
    method = simsiam(golden.encoder(), width=6, hidden=10, predictor_hidden=4)
    width = method.encoder.width
    for f in ("picture", "curve"):
        shapes = [tuple(p.shape) for p in method.projectors[f].parameters()]
        norm = [(10,), (10,)]
        assert shapes == [(10, width), *norm, (10, 10), *norm, (6, 10)]
        shapes = [tuple(p.shape) for p in method.predictors[f].parameters()]
        assert shapes == [(4, 6), (4,), (4,), (6, 4), (6,)]
    assert method.views == ("strong", "strong") and method.min_batch_size == 2
    assert (PAPER_RECIPE.optimizer, PAPER_RECIPE.lr, PAPER_RECIPE.lr_scaling) == (
        "sgd",
        0.05,
        "linear/256",
    )
    assert (PAPER_RECIPE.weight_decay, PAPER_RECIPE.momentum, PAPER_RECIPE.clip) == (1e-4, 0.9, 0)
    assert (PAPER_RECIPE.batch_size, PAPER_RECIPE.epochs, PAPER_RECIPE.schedule) == (
        512,
        100,
        "cosine",
    )
    assert PAPER_RECIPE.warmup_of(1000) == 1


def test_without_rows_the_cosine_is_a_zero_of_the_graph():
    nothing = torch.zeros(0, 3, requires_grad=True)
    loss = minus_cosine(nothing, torch.zeros(0, 3))
    loss.backward()
    assert loss.item() == 0 and nothing.grad is not None
    vectors = torch.randn(5, 3)
    assert float(minus_cosine(vectors, -2 * vectors)) == pytest.approx(1, abs=1e-6)
