"""SwALIP: similarities balanced by Sinkhorn-Knopp are soft targets for another pair of views.

Fini et al. 2023, arXiv:2305.08675, section 3.2; balanced assignment of Caron et al. 2020 (SwAV),
arXiv:2006.09882, eq. 3-5, with the other source's rows in the place of prototypes. For many rows
the N x N assignment is a product of factors, exp(u_i . v_j + f_i + g_j), and never held whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, full_precision
from amodal.objectives.info_nce import info_nce
from amodal.objectives.log_sum_exp import row_log_sum_exp
from amodal.objectives.sinkhorn import sinkhorn
from amodal.objectives.soft_info_nce import DenseTargets, SoftTargets, soft_info_nce
from amodal.objectives.tiles import by_rows

MAX_DENSE_ENTRIES = 2**22
"""Entries up to which an assignment is held whole, which is faster than factors."""


@dataclass(frozen=True)
class FactoredTargets:
    """Targets exp(u_i . v_j) for `soft_info_nce`, whose rows sum to 1.

    Attributes:
        u_NE, v_ME: the factors.
    """

    u_NE: Tensor
    v_ME: Tensor

    def shape(self, columns: int) -> tuple[int, int]:
        return len(self.u_NE), len(self.v_ME)

    def row_sums(self, like: Tensor) -> Tensor:
        return like.new_ones(len(self.u_NE))

    def column_sums(self, like: Tensor, tile: int) -> Tensor:
        return by_rows(lambda part: (part @ self.u_NE.T).exp().sum(1), self.v_ME, tile=tile).to(
            like.dtype
        )

    def apply(self, b_MD: Tensor, tile: int) -> Tensor:
        return by_rows(
            lambda part: (part @ self.v_ME.T).exp() @ b_MD, self.u_NE.to(b_MD.dtype), tile=tile
        )


@torch.no_grad()
@full_precision
def sinkhorn_factors(
    a_ND: Tensor, b_MD: Tensor, *, epsilon: float = 0.05, iterations: int = 3
) -> FactoredTargets:
    """`sinkhorn` of the cosines of a and b, as two factors. No gradient.

    Columns are scaled to equal mass, then rows to sum 1, and so on.

    Args:
        a_ND, b_MD: embeddings; normalised here.
        epsilon: entropy; smaller is harder.
        iterations: alternations.

    Raises:
        ValueError: `epsilon` or `iterations` is not above 0.
    """
    check_positive("epsilon", epsilon)
    check_positive("iterations", iterations)
    a, b = F.normalize(a_ND, dim=1) / epsilon, F.normalize(b_MD, dim=1)
    f, g = a.new_zeros(len(a)), a.new_zeros(len(b))
    for _ in range(iterations):
        g = -_log_masses(b, a, f)
        f = -_log_masses(a, b, g)
    one = torch.ones_like
    # [a, f, 1] . [b, 1, g] = a . b + f + g
    u = torch.cat([a, f[:, None], one(f)[:, None]], 1)
    return FactoredTargets(u, torch.cat([b, one(g)[:, None], g[:, None]], 1))


def _log_masses(x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """log sum_j exp(x_i . y_j + g_j)."""
    return row_log_sum_exp(torch.cat([x, x.new_ones(len(x), 1)], 1), torch.cat([y, g[:, None]], 1))


@full_precision
def swalip(
    a_ND: Tensor,
    b_ND: Tensor,
    target_a_ND: Tensor,
    target_b_ND: Tensor,
    *,
    temperature: float | Tensor,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """Swapped prediction between two pairs of views, the mean of both directions.

        L = H( sinkhorn(cos(a'_i, b'_j)), softmax_j(cos(a_i, b_j) / temperature) )

    First derivatives only.

    Args:
        a_ND, b_ND: views of two sources of the same N rows.
        target_a_ND, target_b_ND: a' and b', the views of the targets, without gradient.
        temperature: a number, or a scalar tensor that gets a gradient.
        epsilon, iterations: as in `sinkhorn`.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("swalip", a_ND, b_ND)
    check_pair("swalip", target_a_ND, target_b_ND)
    if len(a_ND) < 2:
        return info_nce(a_ND, b_ND, temperature=temperature)
    targets: SoftTargets
    reverse_targets: SoftTargets
    with torch.no_grad():
        if len(a_ND) ** 2 <= MAX_DENSE_ENTRIES:
            u, v = (F.normalize(z, dim=1) for z in (target_a_ND, target_b_ND))
            targets, reverse_targets = (
                DenseTargets(sinkhorn(scores, epsilon=epsilon, iterations=iterations))
                for scores in (u @ v.T, v @ u.T)
            )
        else:
            targets, reverse_targets = (
                sinkhorn_factors(x, y, epsilon=epsilon, iterations=iterations)
                for x, y in ((target_a_ND, target_b_ND), (target_b_ND, target_a_ND))
            )
    return soft_info_nce(
        a_ND, b_ND, targets, temperature=temperature, reverse_targets=reverse_targets
    )
