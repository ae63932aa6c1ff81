"""Capsules: a vector as many small parts, each with a pose and an activation.

Three ways to route them: Duarte et al., arXiv:2112.00775 (attention); Sabour, Frosst and Hinton
2017, arXiv:1710.09829, procedure 1 (dynamic); Hinton, Sabour and Frosst, ICLR 2018, procedure 1
(EM). A routing takes poses (N, C, P) and activations (N, C) from 0 to 1, and gives those of the
capsules one layer up. N is rows, C capsules below, K above, P the width of a pose.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize

from amodal.core import unknown
from amodal.core.part import Part
from amodal.nn.heads.linear import GatedLinear

MIN_VARIANCE = 1e-4
"""Smallest variance of votes for a capsule, whose logarithm is taken."""


class AttentionRouting(nn.Module):
    """Self-attention over all poses, weighted by their activations, gives the new poses.

    A softmax over the capsules then says which of them are active. One pass, O(C^2 P), and as many
    capsules above as below.
    """

    def __init__(self, capsules: int, pose: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(pose, pose) for _ in range(3))
        self.activate = nn.Linear(pose, 1)

    def forward(self, pose_NCP: Tensor, active_NC: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, P) and (N, C) -> (N, C, P) and (N, C)."""
        weighted_NCP = pose_NCP * active_NC[..., None]
        score_NCC = (
            self.query(weighted_NCP)
            @ self.key(weighted_NCP).transpose(1, 2)
            / math.sqrt(weighted_NCP.shape[2])
        )
        routed = score_NCC.softmax(2) @ self.value(weighted_NCP)
        return routed, self.activate(routed).squeeze(2).softmax(1)


class Votes(nn.Module):
    """The pose that each of C capsules predicts for each of K: a linear map for every pair.

    C K P^2 weights, and N C K P votes.
    """

    def __init__(self, capsules: int, pose: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(capsules, capsules, pose, pose) * pose**-0.5)

    def forward(self, pose_NCP: Tensor) -> Tensor:
        """(N, C, P) -> (N, C, K, P)."""
        return torch.einsum("ncp,ckpq->nckq", pose_NCP, self.weight)


class DynamicRouting(nn.Module):
    """Votes, weighted by activations, go to the capsules above whose pose agrees with them.

    A capsule's activation is the length that `squash` leaves its pose; its pose is returned as a
    unit vector.
    """

    def __init__(self, capsules: int, pose: int, iterations: int = 3):
        super().__init__()
        self.votes, self.iterations = Votes(capsules, pose), iterations

    def forward(self, pose_NCP: Tensor, active_NC: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, P) and (N, C) -> (N, K, P) and (N, K)."""
        votes = self.votes(pose_NCP * active_NC[..., None])
        logit_NCK = votes.new_zeros(votes.shape[:3])
        for i in range(self.iterations):
            above_NKP = squash(torch.einsum("nck,nckp->nkp", logit_NCK.softmax(2), votes))
            if i + 1 < self.iterations:
                # agreement of votes with the pose above; after the last pass nothing would read it
                logit_NCK = logit_NCK + torch.einsum("nckp,nkp->nck", votes, above_NKP)
        return normalize(above_NKP, dim=2), above_NKP.norm(dim=2)


class EMRouting(nn.Module):
    """Capsules above are Gaussians, fitted to the votes from below by expectation maximisation.

    A capsule is the more active, the better its votes agree. The inverse temperature rises by equal
    steps to 1.
    """

    def __init__(self, capsules: int, pose: int, iterations: int = 3):
        super().__init__()
        self.votes, self.iterations = Votes(capsules, pose), iterations
        self.use, self.active = (
            nn.Parameter(torch.zeros(capsules)),
            nn.Parameter(torch.zeros(capsules)),
        )

    def forward(self, pose_NCP: Tensor, active_NC: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, P) and (N, C) -> (N, K, P) and (N, K)."""
        votes = self.votes(pose_NCP)
        share_NCK = torch.full_like(votes[..., 0], 1 / votes.shape[2])
        for i in range(self.iterations):
            weight = share_NCK * active_NC[..., None]
            mass_NK = weight.sum(1).clamp(min=MIN_VARIANCE)
            mean_NKP = torch.einsum("nck,nckp->nkp", weight, votes) / mass_NK[..., None]
            far_NCKP = (votes - mean_NKP[:, None]).square()
            variance_NKP = (
                torch.einsum("nck,nckp->nkp", weight, far_NCKP) / mass_NK[..., None] + MIN_VARIANCE
            )
            # M-step of procedure 1: mean, variance, and the cost of coding the votes by them
            cost_NK = ((self.use[:, None] + variance_NKP.log() / 2) * mass_NK[..., None]).sum(2)
            above_NK = torch.sigmoid((i + 1) / self.iterations * (self.active - cost_NK))
            if i + 1 < self.iterations:
                # E-step: -2 log of the Gaussian density of each vote, then its responsibility
                fit = (
                    far_NCKP / variance_NKP[:, None] + (2 * math.pi * variance_NKP[:, None]).log()
                ).sum(3)
                share_NCK = (above_NK[:, None].clamp(min=1e-12).log() - fit / 2).softmax(2)
        return mean_NKP, above_NK


ROUTINGS = {"attention": AttentionRouting, "dynamic": DynamicRouting, "em": EMRouting}


def squash(x: Tensor) -> Tensor:
    """The same direction, of length |x|^2 / (1 + |x|^2)."""
    square = x.square().sum(-1, keepdim=True)
    # x / |x| times |x|^2 / (1 + |x|^2), without dividing by |x|
    return x * (square + 1e-12).sqrt() / (1 + square)


class CapsuleHead(Part):
    """Primary capsules, a routing, and a gated linear map of all poses times their activations.

    The poses pass a layer norm without weights first: activations differ in scale from one routing
    to the next, and with the number of capsules.

    Args:
        width_in: D.
        width: Outputs.
        capsules: C.
        pose: P.
        routing: "attention", "dynamic" or "em".

    Raises:
        AmodalError: For another routing.
    """

    def __init__(
        self, width_in: int, width: int, *, capsules: int, pose: int, routing: str = "attention"
    ):
        super().__init__()
        if routing not in ROUTINGS:
            raise unknown("routing", routing, ROUTINGS)
        self.capsules, self.pose = capsules, pose
        self.poses, self.active = (
            nn.Linear(width_in, capsules * pose),
            nn.Linear(width_in, capsules),
        )
        self.routing = ROUTINGS[routing](capsules, pose)
        self.out = GatedLinear(capsules * pose, width)

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) -> (N, width)."""
        pose_NKP, active_NK = self.route(x_ND)
        flat = (pose_NKP * active_NK[..., None]).flatten(1)
        out: Tensor = self.out(layer_norm(flat, flat.shape[1:]))
        return out

    def route(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Poses (N, K, P) and activations (N, K) after routing."""
        pose_NCP = self.poses(x_ND).view(len(x_ND), self.capsules, self.pose)
        out: tuple[Tensor, Tensor] = self.routing(pose_NCP, self.active(x_ND).sigmoid())
        return out
