"""SwALIP: the batch's own similarities, balanced by Sinkhorn-Knopp, are the soft targets of another
pair of views.

Fini et al. 2023, arXiv:2305.08675, section 3.2; balanced assignment of Caron et al. 2020 (SwAV),
arXiv:2006.09882, eq. 3-5, with the other source's rows in the place of prototypes. Of many rows the
N x N assignment is a product of factors, exp(u_i . v_j + f_i + g_j), and never held whole.
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
from amodal.objectives.soft_info_nce import Dense, soft_info_nce
from amodal.objectives.tiles import by_rows

WHOLE = 2**22
"""Entries up to which an assignment is held whole, which is faster."""


@dataclass(frozen=True)
class Assigned:
    """Targets for `soft_info_nce`: row i belongs to column j by exp(u_i . v_j), whose rows sum to
    1."""

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
def assigned(a_ND: Tensor, b_MD: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Assigned:
    """`sinkhorn(cos(a_i, b_j), epsilon=..., iterations=...)` as two factors: columns are scaled to
    one mass, then rows to sum 1, and so on. No gradient. Raises ValueError unless epsilon and
    iterations are above 0."""
    check_positive("epsilon", epsilon)
    check_positive("iterations", iterations)
    a, b = F.normalize(a_ND, dim=1) / epsilon, F.normalize(b_MD, dim=1)
    f, g = a.new_zeros(len(a)), a.new_zeros(len(b))
    for _ in range(iterations):
        g = -_log_masses(b, a, f)
        f = -_log_masses(a, b, g)
    one = torch.ones_like
    u = torch.cat([a, f[:, None], one(f)[:, None]], 1)
    return Assigned(u, torch.cat([b, one(g)[:, None], g[:, None]], 1))


def _log_masses(x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """log sum_j exp(x_i . y_j + g_j)."""
    return row_log_sum_exp(torch.cat([x, x.new_ones(len(x), 1)], 1), torch.cat([y, g[:, None]], 1))


@full_precision
def swalip(
    a_ND: Tensor,
    b_ND: Tensor,
    other_a_ND: Tensor,
    other_b_ND: Tensor,
    *,
    temperature: float | Tensor,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """Cross-entropy of softmax(cos(a_i, b_j) / temperature) under the assignment of the other pair
    of views; mean of both directions.

    a_ND, b_ND: views of two sources of the same N rows; other_a_ND, other_b_ND: the views that give
    the targets, and get no gradient. One row or none gives a connected 0. First derivatives only.
    Raises ValueError for unequal shapes.
    """
    check_pair("swalip", a_ND, b_ND)
    check_pair("swalip", other_a_ND, other_b_ND)
    if len(a_ND) < 2:
        return info_nce(a_ND, b_ND, temperature=temperature)
    balance = {"epsilon": epsilon, "iterations": iterations}
    with torch.no_grad():
        if len(a_ND) ** 2 <= WHOLE:
            u, v = (F.normalize(z, dim=1) for z in (other_a_ND, other_b_ND))
            there, back = Dense(sinkhorn(u @ v.T, **balance)), Dense(sinkhorn(v @ u.T, **balance))
        else:
            there, back = (
                assigned(other_a_ND, other_b_ND, **balance),
                assigned(other_b_ND, other_a_ND, **balance),
            )
    return soft_info_nce(a_ND, b_ND, there, temperature=temperature, back=back)
