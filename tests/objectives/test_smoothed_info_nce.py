"""smoothed_info_nce against torch's cross-entropy with label smoothing on the whole matrix."""

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.smoothed_info_nce import smoothed_info_nce


def naive(a, b, temperature, smoothing, symmetric):
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    own = torch.arange(len(a))
    loss = F.cross_entropy(logits, own, label_smoothing=smoothing)
    return (
        (loss + F.cross_entropy(logits.T, own, label_smoothing=smoothing)) / 2
        if symmetric
        else loss
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_is_the_cross_entropy_of_smoothed_labels(pair, same, smoothing, symmetric):
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    same(
        lambda a, b, t: smoothed_info_nce(
            a, b, temperature=t, smoothing=smoothing, symmetric=symmetric
        ),
        lambda a, b, t: naive(a, b, t, smoothing, symmetric),
        [*pair(9, 5), temperature],
    )


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_are_a_connected_zero(pair, rows):
    a, b = (x[:rows].detach().requires_grad_() for x in pair(3, 4))
    loss = smoothed_info_nce(a, b, temperature=0.1)
    loss.backward()
    assert loss.item() == 0 and a.grad.abs().sum() == 0 and a.grad.shape == a.shape


def test_errors_and_half_precision(pair):
    a, b = pair(4, 3)
    with pytest.raises(ValueError, match="smoothing is a share"):
        smoothed_info_nce(a, b, temperature=0.1, smoothing=1.5)
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(3, 3\)"):
        smoothed_info_nce(a, b[:3], temperature=0.1)
    x, y = (z.detach().bfloat16() for z in (a, b))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = smoothed_info_nce(x, y, temperature=0.1)
    assert half.dtype == torch.float32
    torch.testing.assert_close(
        half.double(),
        smoothed_info_nce(x.double(), y.double(), temperature=0.1),
        rtol=1e-5,
        atol=1e-5,
    )
