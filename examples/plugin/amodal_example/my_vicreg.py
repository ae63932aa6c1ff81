"""VICReg: two views of a value agree, each output varies, and outputs do not repeat each other.
Bardes, Ponce and LeCun, ICLR 2022, arXiv:2105.04906, equations 1 to 6."""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from amodal.core import Embeddings, Recipe
from amodal.methods.contract import Method
from amodal.methods.shared.shapes import Towers, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector

RECIPE = Recipe(optimizer="lars", lr=0.2, lr_scaling="linear/256", weight_decay=1e-6)
"""Section 4.2; 1,000 epochs with batches of 2,048 there."""


def my_vicreg(
    encoder: Encoder,
    *,
    width: int = 256,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Method:
    """Each field learns from two views of its own values.

    Args:
        width: Of the expander's output (8,192 in the paper).
        invariance: Weight of the squared distance of the two views, lambda.
        variance: Weight of the hinge on standard deviations, mu.
        covariance: Weight of the squared covariances, nu.
    """
    heads = {f: Projector(encoder.width, width, hidden=width) for f in encoder.fields}

    def objective(z: Embeddings) -> dict[str, Tensor]:
        terms = {}
        for a, b in view_pairs(z):
            one, two = z.pair(a, b)
            if len(one) < 2:  # a variance needs two rows
                terms[f"my_vicreg/{a}~{b}"] = 0 * (one.sum() + two.sum())
                continue
            terms[f"my_vicreg/{a}~{b}"] = (
                invariance * mse_loss(one, two)
                + variance * (hinge(one) + hinge(two)) / 2
                + covariance * (redundancy(one) + redundancy(two))
            )
        return share(terms)

    return Towers(encoder, objective, heads=heads, views=("strong", "strong"))


def hinge(z_ND: Tensor, target: float = 1.0, eps: float = 1e-4) -> Tensor:
    """Equation 1: how far the standard deviation of each output is below `target`."""
    return torch.relu(target - (z_ND.var(0) + eps).sqrt()).mean()


def redundancy(z_ND: Tensor) -> Tensor:
    """Equations 3 and 4: squared covariances between different outputs, by their number."""
    centred = z_ND - z_ND.mean(0)
    cov_DD = centred.T @ centred / (len(z_ND) - 1)
    return (cov_DD.square().sum() - cov_DD.diagonal().square().sum()) / z_ND.shape[1]
