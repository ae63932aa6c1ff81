"""KoLeo: push every row away from its nearest neighbour.

Sablayrolles et al., ICLR 2019, arXiv:1806.03198, eq. 2; as used in DINOv2, Oquab et al. 2023,
arXiv:2304.07193, section 4. In groups: DINOv3, Siméoni et al. 2025, arXiv:2508.10104, section 3.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import connected_zero, full_precision


@torch.no_grad()
def _nearest(z_ND: Tensor, tile: int) -> Tensor:
    """(N,) the number of the nearest other row."""
    nearest = []
    for start in range(0, len(z_ND), tile):
        cosine = z_ND[start : start + tile] @ z_ND.T
        here = torch.arange(len(cosine), device=z_ND.device)
        cosine[here, here + start] = -2  # a row is not its own neighbour
        nearest.append(cosine.argmax(1))
    return torch.cat(nearest)


@full_precision
def koleo(z_ND: Tensor, *, group: int = 0, eps: float = 1e-8, tile: int = 1024) -> Tensor:
    """Differential entropy estimator of Kozachenko and Leonenko, on the unit sphere.

        L = -1/N sum_i log min_{j != i, j in the group of i} ||z_i - z_j||

    Args:
        z_ND: embeddings; normalised here.
        group: rows of a group at most. Rows in their order are cut into as few groups as that
            allows, whose sizes differ by at most one; no row is left alone, so that groups of 2
            may have one of 3 among them. 0: all rows are one group.
        eps: keeps the logarithm finite where two rows coincide.
        tile: rows compared at a time: memory is tile x N.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the input.

    Raises:
        ValueError: `z_ND` is no matrix, or `group` is 1 or below 0, which leaves no neighbour.
    """
    if group == 1 or group < 0:
        raise ValueError(f"koleo needs groups of at least 2 rows, got {group}.")
    if z_ND.dim() != 2:
        raise ValueError(f"koleo needs an (N, D) matrix, got shape {tuple(z_ND.shape)}.")
    if len(z_ND) < 2:
        return connected_zero(z_ND)
    z = F.normalize(z_ND, dim=1, eps=eps)
    nearest, start = [], 0
    groups = min(-(-len(z) // group), len(z) // 2) if group else 1
    for part_nD in torch.tensor_split(z, groups):
        nearest.append(start + _nearest(part_nD, tile))
        start += len(part_nD)
    distance_N = F.pairwise_distance(z, z[torch.cat(nearest)], eps=eps)
    return -(distance_N + eps).log().mean()
