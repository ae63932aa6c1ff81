"""Coding rates: nats to code a set of vectors up to a distortion, as a whole and group by group.

Yu et al., NeurIPS 2020, arXiv:2006.08558, eq. 2-5 (MCR2); the n x n membership of Chu et al., ICLR
2024, arXiv:2306.05272; lengths of segmented data: Ma et al., PAMI 2007, eq. 9-10 and 13.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision
from amodal.objectives.tiles import by_rows


@full_precision
def coding_rate(z_ND: Tensor, *, distortion: float = 0.1) -> Tensor:
    """Coding rate of all rows, in nats a row.

        R = 1/2 logdet(I + D / (N distortion) Z^T Z)

    Args:
        z_ND: embeddings.
        distortion: squared, above 0.

    Returns:
        A scalar. Without rows: 0, connected to the input.

    Raises:
        ValueError: `distortion` is not above 0.
    """
    check_positive("distortion", distortion)
    if not len(z_ND):
        return connected_zero(z_ND)
    return _logdet(z_ND, z_ND.shape[1] / (len(z_ND) * distortion)) / 2


@full_precision
def compressed_rate(
    z_ND: Tensor, member_NK: Tensor, *, distortion: float = 0.1, tile: int = 32
) -> Tensor:
    """Coding rate of the rows group by group, in nats a row.

        R = sum_k t_k / (2N) logdet(I + D / (t_k distortion) Z^T diag(member_k) Z)

    t_k is the sum of group k's memberships. Groups without members count nothing.

    Args:
        z_ND: embeddings.
        member_NK: not negative; 0 or 1 for hard groups, rows that sum to 1 for soft ones.
        distortion: squared, above 0.
        tile: groups at a time; changes memory and speed, not the result.

    Returns:
        A scalar. Without rows or groups: 0, connected to the inputs.

    Raises:
        ValueError: the lengths differ, or `distortion` is not above 0.
    """
    check_positive("distortion", distortion)
    if z_ND.dim() != 2 or member_NK.dim() != 2 or len(z_ND) != len(member_NK):
        raise ValueError(
            f"compressed_rate needs (N, D) and (N, K) of one N, got {tuple(z_ND.shape)}, "
            f"{tuple(member_NK.shape)}."
        )
    if not member_NK.numel():
        return connected_zero(z_ND, member_NK)
    width = z_ND.shape[1]
    eye = torch.eye(width, dtype=z_ND.dtype, device=z_ND.device)

    def group_rates(member_tN: Tensor) -> Tensor:
        mass_t = member_tN.sum(1).clamp(min=1e-8)
        weighted_tDN = z_ND.T * (member_tN * (width / distortion / mass_t)[:, None])[:, None]
        return mass_t * torch.logdet(eye + weighted_tDN @ z_ND)

    return by_rows(group_rates, member_NK.T.to(z_ND.dtype), tile=tile).sum() / (2 * len(z_ND))


@torch.no_grad()
@full_precision
def coding_length(z_ND: Tensor, group_N: Tensor, *, distortion: float = 0.1) -> Tensor:
    """Bits to code the group of each row and the rows of each group. Lower is better.

        sum_k (n_k + D)/2 log2 det(I + D / (n_k distortion) Z_k^T Z_k) - n_k log2(n_k / N)

    No gradient.

    Args:
        z_ND: embeddings.
        group_N: int64, any numbers.
        distortion: squared, above 0.

    Raises:
        ValueError: the lengths differ, or `distortion` is not above 0.
    """
    check_positive("distortion", distortion)
    if len(z_ND) != len(group_N):
        raise ValueError(
            f"coding_length needs one group a row, got {len(group_N)} for {len(z_ND)}."
        )
    total = z_ND.new_zeros(())
    for group in group_N.unique():
        members = z_ND[group_N == group]
        n, width = members.shape
        logdet = _logdet(members, width / (n * distortion))
        total = (
            total
            + (n + width) / 2 * logdet
            - n * torch.log(torch.tensor(n / len(z_ND), dtype=total.dtype))
        )
    return total / torch.log(total.new_tensor(2.0))


def _logdet(z_ND: Tensor, scale: float) -> Tensor:
    """logdet(I + scale Z^T Z), by the smaller of the two products."""
    # det(I + A B) = det(I + B A) (Sylvester)
    gram = z_ND.T @ z_ND if z_ND.shape[0] >= z_ND.shape[1] else z_ND @ z_ND.T
    return torch.logdet(torch.eye(len(gram), dtype=gram.dtype, device=gram.device) + scale * gram)
