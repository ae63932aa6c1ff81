"""MoCo v3 against its paper, written out: equation 1, algorithm 1, and section 4.2's projection."""

import inspect
import math

import pytest
import torch

from amodal.methods.contrastive.moco_v3 import PAPER_RECIPE, moco_v3
from tests.golden import two_views as golden

TAU, M, PLANNED = 0.3, 0.9, 4


def algorithm_of(layers):
    def algorithm(naive, batch, step):
        online, slow = naive.of("encoder.", batch), naive.of("teacher.", batch)
        terms = {}
        for f in ("picture", "curve"):
            one, two = f"{f}:1", f"{f}:2"
            q = [
                naive.head(
                    f"predictors.{f}", naive.head(f"projectors.{f}", online[s], layers), "lnrln"
                )
                for s in (one, two)
            ]
            k = [
                naive.head(f"teacher_projectors.{f}", slow[s], layers).detach() for s in (one, two)
            ]
            total = 0.0
            for query, key in ((q[0], k[1]), (q[1], k[0])):
                logits = golden.cosines(query, key) / TAU
                chance = logits.exp() / logits.exp().sum(1, keepdim=True)
                total = total - 2 * TAU * chance.diagonal().log().mean()
            terms[f"moco_v3/{one}~{two}"] = total / 2  # the mean of two fields

        def after():
            m = 1 - (1 - M) * (math.cos(math.pi * step / PLANNED) + 1) / 2
            naive.average("teacher.", "encoder.", m)
            naive.average("teacher_projectors.", "projectors.", m)

        return terms, after

    return algorithm


@pytest.mark.parametrize("layers, names", [(3, "lnrlnrln"), (2, "lnrln")])
def test_two_steps(layers, names):
    method = moco_v3(
        golden.encoder(), width=6, hidden=10, layers=layers, temperature=TAU, momentum=M
    ).double()
    before = {n: p.clone() for n, p in method.encoder.tokenizers.named_parameters()}
    golden.check(method, algorithm_of(names), planned=PLANNED)
    after = dict(method.encoder.tokenizers.named_parameters())
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    frozen = {n for n in before if n.startswith("picture")}
    assert frozen and moved == before.keys() - frozen


def test_the_projection_of_patches_can_learn():
    method = moco_v3(
        golden.encoder(), width=6, hidden=10, temperature=TAU, momentum=M, freeze_patches=False
    ).double()
    assert all(p.requires_grad for p in method.encoder.parameters())
    golden.check(method, algorithm_of("lnrlnrln"), planned=PLANNED)


def test_numbers_and_shapes_of_the_paper():
    defaults = {n: p.default for n, p in inspect.signature(moco_v3).parameters.items()}
    assert list(defaults.values())[1:] == [256, 4096, 3, 0.2, 0.99, True]
    method = moco_v3(golden.encoder(), width=6, hidden=10)
    width, norm = method.encoder.width, [(10,), (10,)]
    for f in ("picture", "curve"):
        shapes = [tuple(p.shape) for p in method.projectors[f].parameters()]
        assert shapes == [(10, width), *norm, (10, 10), *norm, (6, 10)]
        shapes = [tuple(p.shape) for p in method.predictors[f].parameters()]
        assert shapes == [(10, 6), *norm, (6, 10)]
        for head in (method.projectors[f], method.predictors[f]):
            assert not head[-1].affine
    assert method.momentum == 0.99 and method.final_momentum == 1.0
    assert method.views == ("blurred", "solarized") and method.min_batch_size == 2
    assert (PAPER_RECIPE.optimizer, PAPER_RECIPE.lr, PAPER_RECIPE.lr_scaling) == (
        "adamw",
        1.5e-4,
        "linear/256",
    )
    assert (PAPER_RECIPE.weight_decay, PAPER_RECIPE.warmup_epochs, PAPER_RECIPE.clip) == (
        0.1,
        40,
        0,
    )
    assert (PAPER_RECIPE.batch_size, PAPER_RECIPE.epochs, PAPER_RECIPE.betas) == (
        4096,
        300,
        (0.9, 0.999),
    )
    vectors = torch.randn(4, 256), torch.randn(4, 256)
    cross = -(golden.cosines(*vectors) / 0.2).log_softmax(1).diagonal().mean()
    assert float(method.loss(*vectors)) == pytest.approx(0.4 * float(cross), rel=1e-5)
