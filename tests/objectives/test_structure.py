"""structure_loss against loops over rows and whole matrix powers."""

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.structure import structure_loss


def loops(x, y, temperature, levels, margin, weight_by_level=False):
    matrices = []
    for z in (x.detach(), y):
        unit = z / z.norm(dim=1, keepdim=True)
        unit = unit - unit.mean(0)
        matrices.append(F.softmax(unit @ unit.T / temperature, dim=1))
    total = 0.0
    for level in range(1, levels + 1):
        p, q = (torch.linalg.matrix_power(m, level) for m in matrices)
        js = 0.0
        for i in range(len(x)):
            m = (p[i] + q[i]) / 2
            js = js + (p[i] * (p[i] / m).log() + q[i] * (q[i] / m).log()).sum() / 2
        total = total + (js / len(x) - margin).clamp_min(0) / (level if weight_by_level else 1)
    return total / levels


@pytest.mark.parametrize("tile", [2, 256])
@pytest.mark.parametrize(
    ("levels", "margin", "by_level"), [(1, 0.0, False), (1, 0.02, False), (3, 0.0, True)]
)
def test_it_is_the_formula(pair, same, tile, levels, margin, by_level):
    options = {"temperature": 0.3, "levels": levels, "margin": margin, "weight_by_level": by_level}
    x = pair(7, 5, seed=1)[0].detach()
    y = pair(7, 3)[0]
    assert loops(x, y, **options) > 0
    same(
        lambda y: structure_loss(x, y, tile=tile, **options), lambda y: loops(x, y, **options), [y]
    )


def test_a_rotation_keeps_the_structure_and_the_original_learns_nothing(pair):
    x, y = pair(6, 4)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert structure_loss(x, 3 * x @ turn).item() == pytest.approx(0, abs=1e-12)
    structure_loss(x, y).backward()
    assert x.grad is None and y.grad.abs().sum() > 0


def test_a_large_margin_and_a_low_temperature_stay_finite(pair):
    x, y = pair(6, 4)
    assert structure_loss(x, y, margin=1.0) == 0
    y32 = y.detach().float().requires_grad_()
    structure_loss(x.float(), y32, temperature=0.002, levels=2).backward()
    assert y32.grad.isfinite().all()


def test_edges(pair):
    for n in (0, 1):
        x, y = pair(n, 3)
        structure_loss(x, y).backward()
        assert y.grad.shape == (n, 3)
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(3, 3\)"):
        structure_loss(pair(4, 3)[0], pair(3, 3)[1])
    with pytest.raises(ValueError, match="levels"):
        structure_loss(*pair(4, 3), levels=0)
