"""kernel_infonce alone on one field, and its mixtures."""

import pytest
import torch

from amodal.objectives.info_nce import info_nce
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, method


@pytest.mark.parametrize("mixture", ["none", "sum", "concatenation"])
@pytest.mark.parametrize("senses", [("picture",), ("words", "facts")])
def test_every_mixture_learns_from_one_field_and_from_several(mixture, senses):
    m = exact(method("kernel_infonce", senses=senses, mixture=mixture, width=8))
    terms = gradients(m, exact(batch(m.views, senses=senses)))
    name = "kernel/picture:1~picture:2" if len(senses) == 1 else "kernel/words~facts"
    assert list(terms) == [name] and terms[name].isfinite()
    assert sum(float(p.grad.abs().sum()) for p in m.encoder.parameters() if p.grad is not None) > 0
    m.zero_grad()
    assert sum(gradients(m, exact(batch(m.views, senses=senses, absent=senses))).values()) == 0


def test_the_sum_is_of_its_kernels_and_the_gaussian_one_is_clips():
    def loss(**options):
        m = exact(method("kernel_infonce", senses=("words", "facts"), temperature=0.4, **options))
        z = m.features(exact(batch(m.views, senses=("words", "facts"))))
        return sum(m.losses(z).values()), info_nce(*z.pair("words", "facts"), temperature=0.2)

    laplace, _ = loss(mixture="none", gamma=1.0)
    gauss, clip = loss(mixture="none", gamma=2.0)
    torch.testing.assert_close(gauss, clip)
    torch.testing.assert_close(loss(mixture="sum", weight=0.3)[0], 0.3 * laplace + 0.7 * gauss)


def test_an_unknown_mixture_offers_the_nearest():
    with pytest.raises(ValueError, match="Did you mean sum"):
        method("kernel_infonce", mixture="sun")
