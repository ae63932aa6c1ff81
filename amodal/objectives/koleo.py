"""KoLeo: push every row away from its nearest neighbour.

Sablayrolles et al., ICLR 2019, arXiv:1806.03198, eq. 2; as used in DINOv2, Oquab et al. 2023,
arXiv:2304.07193, section 4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import connected_zero, full_precision


@torch.no_grad()
def _nearest(z_ND: Tensor, tile: int) -> Tensor:
    nearest = []
    for start in range(0, len(z_ND), tile):
        cosine = z_ND[start : start + tile] @ z_ND.T
        here = torch.arange(len(cosine), device=z_ND.device)
        cosine[here, here + start] = -2  # a row is not its own neighbour
        nearest.append(cosine.argmax(1))
    return torch.cat(nearest)


@full_precision
def koleo(z_ND: Tensor, *, eps: float = 1e-8, tile: int = 1024) -> Tensor:
    """Differential entropy estimator of Kozachenko and Leonenko, on the unit sphere.

        L = -1/N sum_i log min_{j != i} ||z_i - z_j||

    Args:
        z_ND: embeddings; normalised here.
        eps: keeps the logarithm finite where two rows coincide.
        tile: rows compared at a time: memory is tile x N.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the input.

    Raises:
        ValueError: `z_ND` is no matrix.
    """
    if z_ND.dim() != 2:
        raise ValueError(f"koleo needs an (N, D) matrix, got shape {tuple(z_ND.shape)}.")
    if len(z_ND) < 2:
        return connected_zero(z_ND)
    z = F.normalize(z_ND, dim=1, eps=eps)
    distance_N = F.pairwise_distance(z, z[_nearest(z, tile)], eps=eps)
    return -(distance_N + eps).log().mean()
