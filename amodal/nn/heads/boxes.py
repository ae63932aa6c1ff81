"""Concepts as boxes: one contains another as far as it follows from it.

Vilnis et al. 2018, arXiv:1805.06627; smoothed as in Li et al., ICLR 2019 (sides), and Dasgupta et
al., NeurIPS 2020, arXiv:2010.04831 (corners), so that boxes apart still have a gradient. A box is
its lower corner and its sides, (..., D) each, sides above 0. P(a | b) is the share of b's volume
that lies in a. `softness` is a temperature in the units of the space; towards 0 boxes are hard.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from amodal.core.part import Part
from amodal.objectives.entailment import bce_from_log_prob

START_SIDE = 0.5
"""Sides of boxes before they have learnt anything, of a space that begins about as large as 1."""


def log_volume(side: Tensor, softness: float) -> Tensor:
    """(...): the sum over dimensions of log(softness softplus(side / softness))."""
    return (softness * softplus(side / softness)).clamp(min=1e-30).log().sum(-1)


def log_entailment(
    low_a: Tensor, side_a: Tensor, low_b: Tensor, side_b: Tensor, *, softness: float
) -> Tensor:
    """log P(a | b) <= 0 of boxes whose shapes broadcast.

    Corners of the intersection are log-sum-exps in place of maxima and minima. Their temperature is
    a tenth of the softness, because each takes a little of the intersection in every dimension.

    Args:
        low_a, side_a: (..., D), box a.
        low_b, side_b: (..., D), box b.
        softness: Of the volumes.

    Returns:
        (...).
    """
    sharp = softness / 10
    # soft max of lower corners, and soft min of upper ones
    low = sharp * torch.logaddexp(low_a / sharp, low_b / sharp)
    high = -sharp * torch.logaddexp(-(low_a + side_a) / sharp, -(low_b + side_b) / sharp)
    return log_volume(high - low, softness) - log_volume(side_b, softness)


@torch.enable_grad()
def learn_boxes(
    target_KK: Tensor,
    *,
    dims: int,
    softness: float,
    steps: int = 1000,
    lr: float = 0.05,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Boxes whose P(i | j) come near given ones.

    Adam on the mean binary cross-entropy, from the same random boxes for a seed.

    Args:
        target_KK: (K, K), P(i | j) at [i, j]; NaN where nothing is known.
        dims: D of the space.
        softness: Of the boxes.
        steps, lr: Of Adam.
        seed: Of the start.

    Returns:
        (K, dims) corners and (K, dims) sides.
    """
    generator = torch.Generator().manual_seed(seed)
    k = len(target_KK)
    low = torch.rand(k, dims, dtype=torch.float64, generator=generator).requires_grad_()
    # the inverse of softplus, log(e^x - 1), so that sides begin at START_SIDE
    raw = torch.full((k, dims), START_SIDE, dtype=torch.float64).expm1().log().requires_grad_()
    descent = torch.optim.Adam([low, raw], lr=lr)
    target_KK = target_KK.double().cpu()
    for _ in range(steps):
        side = softplus(raw)
        loss = bce_from_log_prob(
            log_entailment(low[:, None], side[:, None], low, side, softness=softness), target_KK
        )
        descent.zero_grad()
        loss.backward()
        descent.step()
    return low.detach(), softplus(raw).detach()


class ConceptHead(Part):
    """How far each of some concepts, which are fixed boxes, follows from the box of a row.

    Args:
        width_in: D.
        width: Concepts.
        dims: Of the space of boxes.
        softness: See above.
    """

    low: Tensor
    side: Tensor

    def __init__(self, width_in: int, width: int, *, dims: int, softness: float):
        super().__init__()
        self.softness = softness
        self.to_box = nn.Sequential(
            nn.Linear(width_in, width_in), nn.GELU(), nn.Linear(width_in, 2 * dims)
        )
        corners = torch.rand(width, dims, generator=torch.Generator().manual_seed(0))
        self.register_buffer("low", corners)
        self.register_buffer("side", torch.full((width, dims), START_SIDE))

    def box(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Corners and sides (N, dims) of the rows' boxes."""
        low, raw = self.to_box(x_ND).chunk(2, 1)
        return low + START_SIDE, softplus(raw - 2)

    def log_membership(self, x_ND: Tensor) -> Tensor:
        """The logarithm of `forward`, which a loss needs where memberships are near 0."""
        low, side = self.box(x_ND)
        return log_entailment(
            self.low, self.side, low[:, None], side[:, None], softness=self.softness
        )

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) -> (N, width) from 0 to 1."""
        return self.log_membership(x_ND).exp()

    def set_concepts(self, low: Tensor, side: Tensor) -> None:
        """Take these concepts, (width, dims) each."""
        self.low.copy_(low)
        self.side.copy_(side)
