"""SIGReg: embeddings are to be distributed as an isotropic Gaussian.

Balestriero & LeCun 2025, arXiv:2511.08544, algorithm 1; the statistic: Epps & Pulley, Biometrika
1983. Processes that hold the same rows share the slices (`row_share`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import normalize

from amodal.objectives.common import apply, check_positive, connected_zero, full_precision
from amodal.objectives.row_share import current


@full_precision
def sigreg(z_ND: Tensor, slice_MD: Tensor, *, limit: float, points: int, tile: int = 64) -> Tensor:
    """The mean over slices of the Epps-Pulley statistic, which compares embeddings along a
    direction with the standard normal distribution.

        L = mean_m N int |phi_m(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,
        phi_m(t) = mean_n exp(i t <a_m, z_n>)

    First derivatives only. Time is N M `points`, memory N `tile` `points`.

    Args:
        z_ND: embeddings, not normalised.
        slice_MD: directions a_m, normalised here; without a gradient.
        limit: the integral is from -limit to limit; the paper has 5, the authors' program 3,
        points: by the trapezoidal rule with so many knots, an odd number; the paper has 17.
        tile: slices at a time; changes memory and speed, not the result.

    Returns:
        A scalar. Without rows: 0, connected to the input.

    Raises:
        ValueError: widths differ, there are no slices, or an even number of knots, or no limit
            above 0.

    Example:
        >>> sigreg(torch.randn(32, 8), torch.randn(64, 8), limit=5.0, points=17).shape
        torch.Size([])
    """
    check_positive("limit", limit)
    if points < 3 or not points % 2:
        raise ValueError(f"points must be odd and at least 3, got {points}.")
    if z_ND.dim() != 2 or slice_MD.dim() != 2 or z_ND.shape[1] != slice_MD.shape[1]:
        raise ValueError(
            "sigreg needs embeddings (N, D) and slices (M, D) of one width, "
            f"got {tuple(z_ND.shape)} and {tuple(slice_MD.shape)}."
        )
    if not len(slice_MD):
        raise ValueError("sigreg needs at least one slice.")
    if not len(z_ND):
        return connected_zero(z_ND)
    statistic: Tensor = apply(
        _Sliced, z_ND, normalize(slice_MD.to(z_ND.dtype), dim=1), limit, points // 2, tile
    )
    return statistic


class _Sliced(Function):
    """The gradient is computed with the value: both need the same sines and cosines."""

    @staticmethod
    def forward(
        ctx: Any, z_ND: Tensor, slice_MD: Tensor, limit: float, intervals: int, tile: int
    ) -> Tensor:
        # The integrand is symmetric, so half of the integral is enough. The weight of t = 0 does
        # not matter: there all characteristic functions are 1.
        t = torch.linspace(0, limit, intervals + 1, dtype=z_ND.dtype, device=z_ND.device)
        normal = (-t.square() / 2).exp()
        weight = normal * (2 * limit / intervals)
        weight[-1] /= 2
        total, gradient_ND = z_ND.new_zeros(()), torch.zeros_like(z_ND)
        share = current()
        for number, a_mD in enumerate(slice_MD.split(share.tile(tile, len(slice_MD)))):
            if not share.is_local(number):
                continue
            angle = (z_ND @ a_mD.T).unsqueeze(2) * t  # (N, m, knots)
            cos, sin = angle.cos(), angle.sin()
            real, imaginary = cos.mean(0) - normal, sin.mean(0)
            total += ((real.square() + imaginary.square()) @ weight).sum()
            # d statistic / d <a, z_n>; N of the statistic and 1 / N of the means cancel
            slope = (imaginary * weight * t) * cos - (real * weight * t) * sin
            gradient_ND.addmm_(slope.sum(2), a_mD, alpha=2)
        share.all_reduce_sum(total)
        share.all_reduce_sum(gradient_ND)
        ctx.save_for_backward(gradient_ND.div_(len(slice_MD)))
        return total * len(z_ND) / len(slice_MD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_ND,) = ctx.saved_tensors
        return grad * gradient_ND, None, None, None, None
