"""A backbone for point clouds. Qi et al., CVPR 2017, arXiv:1612.00593, without its transforms."""

import torch
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.modalities import Modality

WIDTHS = {"": 128, "wide": 512}


class PointNet(nn.Module):
    """One perceptron for all points of a cloud, and the largest output over its points.

    Args:
        width: Of the vector, D.
    """

    def __init__(self, width: int):
        super().__init__()
        self.point = nn.Sequential(nn.Linear(3, 64), nn.GELU(), nn.Linear(64, width), nn.GELU())
        self.norm = nn.LayerNorm(width)

    def forward(self, points_NL3: Tensor, lengths_N: Tensor) -> Tensor:
        """Clouds padded to L points, and their lengths. Returns (N, D)."""
        x_NLD = self.point(points_NL3)
        padding = torch.arange(x_NLD.shape[1], device=x_NLD.device) >= lengths_N[:, None].to(
            x_NLD.device
        )
        return self.norm(x_NLD.masked_fill(padding[..., None], -torch.inf).amax(1))


def pointnet(modality: Modality, which: str = "") -> PointNet:
    """The backbone `pointnet`, or `pointnet:wide`."""
    if modality.kind != "cloud":
        raise AmodalError(f"pointnet reads clouds, and this field is {modality.kind}")
    if which not in WIDTHS:
        raise AmodalError(f"no pointnet is called {which!r}; there is pointnet, and pointnet:wide")
    return PointNet(WIDTHS[which])
