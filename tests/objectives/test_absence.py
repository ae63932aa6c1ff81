"""Absence is the normal case: every objective with no rows, or one, is finite and reaches its
inputs; both dtypes."""

import pytest
import torch

from amodal.objectives.alignment_uniformity import alignment, uniformity
from amodal.objectives.barlow import barlow_twins
from amodal.objectives.decur import decur
from amodal.objectives.dino import dino_loss
from amodal.objectives.info_nce import info_nce, nt_xent
from amodal.objectives.koleo import koleo
from amodal.objectives.reconstruction import masked_cross_entropy, masked_mse
from amodal.objectives.sigmoid import sigmoid_loss
from amodal.objectives.sigreg import sigreg
from amodal.objectives.smooth_l1 import smooth_l1
from amodal.objectives.vicreg import vicreg

SCALARS = {
    "info_nce": lambda a, b: info_nce(a, b, temperature=0.1),
    "info_nce one way": lambda a, b: info_nce(a, b, temperature=0.1, symmetric=False),
    "nt_xent": nt_xent,
    "sigmoid": lambda a, b: sigmoid_loss(a, b, scale=10.0, bias=-10.0),
    "barlow": barlow_twins,
    "decur": lambda a, b: sum(decur(a, b, common=0.5)),
    "vicreg": vicreg,
    "dino": lambda a, b: dino_loss(
        [a, b], [b, a], teacher_temperature=0.1, center_K=torch.zeros(a.shape[1])
    ),
    "sigreg": lambda a, b: sum(sigreg(z, torch.eye(4), limit=5.0, points=17) for z in (a, b)),
    "koleo": lambda a, b: koleo(a) + koleo(b),
    "alignment": alignment,
    "uniformity": lambda a, b: uniformity(a) + uniformity(b),
    "masked_mse": lambda a, b: masked_mse(a, b).sum(),
    "masked_cross_entropy": lambda a, b: masked_cross_entropy(
        a + b, torch.zeros(len(a), dtype=torch.long)
    ).sum(),
    "smooth_l1": lambda a, b: smooth_l1(a, b, beta=1.0).sum(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 2, 3])
@pytest.mark.parametrize("name", SCALARS)
def test_few_rows(name, rows, dtype):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(rows, 4, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    loss = SCALARS[name](a, b)
    assert loss.shape == () and loss.isfinite()
    assert loss.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    if rows == 0:
        assert loss == 0
    loss.backward()
    for x in (a, b):
        assert x.grad is not None and x.grad.isfinite().all()


def test_a_learnt_temperature_is_reached_without_rows():
    log_scale, bias = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
    nothing = torch.zeros(0, 4)
    loss = info_nce(nothing, nothing, temperature=(-log_scale).exp())
    (loss + sigmoid_loss(nothing, nothing, scale=log_scale.exp(), bias=bias)).backward()
    assert log_scale.grad == 0 and bias.grad == 0
