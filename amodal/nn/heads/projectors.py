"""Heads between an embedding and a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.core.part import Part


class Projector(nn.Sequential):
    """Linear-BatchNorm-ReLU layers and a last linear one.

    Batch statistics couple rows, so a method calls it in `losses`, where it sees the whole batch.

    Args:
        width_in, width: Of input and output.
        hidden: Of the layers between; `width` unless given.
        layers: Linear layers.
        last_norm: A BatchNorm without scale at the end (SimCLR v2 and SimSiam projectors).
        last_bias: A bias of the last layer, unless a norm follows, which would subtract it again.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        *,
        hidden: int | None = None,
        layers: int = 2,
        last_norm: bool = False,
        last_bias: bool = True,
    ):
        hidden = hidden or width
        widths = [width_in, *[hidden] * (layers - 1), width]
        steps: list[nn.Module] = []
        for a, b in zip(widths[:-2], widths[1:-1]):
            # without a bias, which the norm would subtract again
            steps += [nn.Linear(a, b, bias=False), BatchNorm(b), nn.ReLU()]
        steps.append(nn.Linear(widths[-2], widths[-1], bias=last_bias and not last_norm))
        if last_norm:
            steps.append(BatchNorm(width, affine=False))
        super().__init__(*steps)


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm that uses its running statistics for a batch of one row or none."""

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        # torch refuses to take batch statistics of one row; ranks or fields with none must not fail
        if self.training and len(x_ND) < 2:
            assert self.running_mean is not None and self.running_var is not None
            scale = torch.rsqrt(self.running_var + self.eps)
            x_ND = (x_ND - self.running_mean) * scale
            return x_ND * self.weight + self.bias if self.affine else x_ND
        return super().forward(x_ND)


class BypassHead(nn.Module):
    """A linear map beside a perceptron, then BatchNorm, as in AMDIM (arXiv:1906.00910).

    The bypass begins as the identity. Like `Projector` it couples rows, so a method calls it in
    `losses`.
    """

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.bypass = nn.Linear(width_in, width)
        nn.init.eye_(self.bypass.weight)
        self.mlp = nn.Sequential(
            nn.Linear(width_in, width, bias=False), nn.ReLU(), nn.Linear(width, width, bias=False)
        )
        self.norm = BatchNorm(width)

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, width_in) -> (N, width)."""
        out: Tensor = self.norm(self.bypass(x_ND) + self.mlp(x_ND))
        return out


class PrototypeHead(nn.Module):
    """DINO's head: an MLP to a narrow unit vector, then its cosine with K prototypes.

    arXiv:2104.14294, appendix C.

    Args:
        width_in: D.
        prototypes: K.
        hidden: Of the MLP.
        bottleneck: Width of the unit vector.
    """

    def __init__(self, width_in: int, prototypes: int, *, hidden: int = 256, bottleneck: int = 64):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width_in, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck) * bottleneck**-0.5)

    def forward(self, x_ND: Tensor, *, fixed: bool = False) -> Tensor:
        """(N, D) -> (N, K) cosines; fixed: prototypes get no gradient."""
        prototypes = self.prototypes.detach() if fixed else self.prototypes
        return normalize(self.mlp(x_ND), dim=1) @ normalize(prototypes, dim=1).T


class BranchHead(Part):
    """A perceptron with two linear outputs, features (the first half) and memberships (the second).

    Each half is a unit vector over the root of 2, so that a product of two rows is the mean of two
    cosines (Chu et al. 2024, arXiv:2306.05272). Its BatchNorm couples rows in training, so a method
    calls it in `losses`.

    Args:
        width_in: D.
        width: Even.
        hidden: Of the perceptron.

    Raises:
        AmodalError: For an odd width.
    """

    def __init__(self, width_in: int, width: int, *, hidden: int):
        super().__init__()
        if width % 2:
            raise AmodalError(f"two branches of one width make an even width, not {width}")
        self.trunk = nn.Sequential(
            nn.Linear(width_in, hidden),
            BatchNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.subspace, self.member = nn.Linear(hidden, width // 2), nn.Linear(hidden, width // 2)
        self.tie_branches()

    def tie_branches(self) -> None:
        """Give the second branch the weights of the first."""
        self.member.load_state_dict(self.subspace.state_dict())

    def forward(self, x_ND: Tensor) -> Tensor:
        """(N, D) -> (N, width)."""
        h = self.trunk(x_ND)
        return (
            torch.cat([normalize(self.subspace(h), dim=1), normalize(self.member(h), dim=1)], 1)
            / 2**0.5
        )
