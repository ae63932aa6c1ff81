"""kernel_infonce alone on one field, and its mixtures."""

import pytest
import torch
from torch.nn.functional import normalize

from amodal.objectives.info_nce import info_nce
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, method


@pytest.mark.parametrize("mixture", ["none", "sum", "concatenation"])
@pytest.mark.parametrize("fields", [("picture",), ("words", "facts")])
def test_every_mixture_learns_from_one_field_and_from_many(mixture, fields):
    m = exact(method("kernel_infonce", sources=fields, mixture=mixture, width=8))
    terms = gradients(m, exact(batch(m.views, sources=fields)))
    name = "kernel/picture:1~picture:2" if len(fields) == 1 else "kernel/words~facts"
    assert list(terms) == [name] and terms[name].isfinite()
    assert sum(float(p.grad.abs().sum()) for p in m.encoder.parameters() if p.grad is not None) > 0
    m.zero_grad()
    assert sum(gradients(m, exact(batch(m.views, sources=fields, absent=fields))).values()) == 0


def test_the_sum_is_of_its_kernels_and_the_gaussian_one_is_clips():
    def loss(**options):
        m = exact(method("kernel_infonce", sources=("words", "facts"), temperature=0.4, **options))
        z = m.features(exact(batch(m.views, sources=("words", "facts"))))
        return sum(m.losses(z).values()), info_nce(*z.pair("words", "facts"), temperature=0.2)

    laplace, _ = loss(mixture="none", gamma=1.0)
    gauss, clip = loss(mixture="none", gamma=2.0)
    torch.testing.assert_close(gauss, clip)
    torch.testing.assert_close(loss(mixture="sum", weight=0.3)[0], 0.3 * laplace + 0.7 * gauss)


def reference(a, b, gamma, temperature, within):
    """-log of a pair's kernel over the sum of an anchor's, anchor by anchor; vectors as they are."""
    sides, total = ([x for x in a], [x for x in b]), 0.0
    for side, other in (sides, sides[::-1]):
        for i, anchor in enumerate(side):
            rest = [x for j, x in enumerate(side) if j != i] if within else []
            logits = torch.stack(
                [-((anchor - x).norm() ** gamma) / temperature for x in [*other, *rest]]
            )
            total = total + logits.logsumexp(0) - logits[i]
    return total / (2 * len(a))


@pytest.mark.parametrize("fields", [("picture",), ("words", "facts")])
def test_in_the_concatenation_each_kernel_has_its_half_and_its_share(fields):
    options = {"gamma": 1.0, "other_gamma": 1.5, "weight": 0.3, "temperature": 0.4, "width": 8}
    m = exact(method("kernel_infonce", sources=fields, mixture="concatenation", **options))
    features = m.features(exact(batch(m.views, sources=fields)))
    z = m.project(features)
    pair = [normalize(v, dim=1) for v in z.pair(*z.sources)]
    (a, c), (b, d) = (v.split(8, 1) for v in pair)
    within = len(fields) == 1
    expected = 0.3 * reference(a, b, 1.0, 0.4, within) + 0.7 * reference(c, d, 1.5, 0.4, within)
    torch.testing.assert_close(sum(m.losses(features).values()), expected)


def test_an_unknown_mixture_offers_the_nearest():
    with pytest.raises(ValueError, match="Did you mean sum"):
        method("kernel_infonce", mixture="sun")
