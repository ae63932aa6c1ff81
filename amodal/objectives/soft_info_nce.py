"""InfoNCE with soft targets: a row may belong to several rows of the other side, with weights.

Cross-entropy between softmax(cos / temperature) and a target distribution, as used by mixup
contrast (Kumar et al. 2024, arXiv:2409.17777, eq. 3-6; Scotti et al. 2023, arXiv:2305.18274), by
CutMix contrast and by semantic matching. The targets are a matrix, a few indices and weights a row,
or the softmax of another similarity, which is made tile by tile and never held whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import pair_log_sum_exp, row_log_sum_exp
from amodal.objectives.tiles import by_rows


@dataclass(frozen=True)
class Dense:
    """matrix_NM: the weight of column j for row i; rows need not sum to 1."""

    matrix_NM: Tensor

    def shape(self, columns: int) -> tuple[int, int]:
        return tuple(self.matrix_NM.shape)

    def row_sums(self, like: Tensor) -> Tensor:
        return self.matrix_NM.to(like.dtype).sum(1)

    def column_sums(self, like: Tensor, tile: int) -> Tensor:
        return self.matrix_NM.to(like.dtype).sum(0)

    def apply(self, b_MD: Tensor, tile: int) -> Tensor:
        return self.matrix_NM.to(b_MD.dtype) @ b_MD


@dataclass(frozen=True)
class Sparse:
    """index_NK: int64, the K columns that row i belongs to; weight_NK: how much. An index that
    occurs twice counts twice."""

    index_NK: Tensor
    weight_NK: Tensor

    @staticmethod
    def mixed(partner_N: Tensor, kept_N: Tensor) -> Sparse:
        """Row i is a mixture of row i, by `kept_N`, and of row `partner_N`, by the rest: mixup and
        CutMix."""
        own = torch.arange(len(partner_N), device=partner_N.device)
        return Sparse(torch.stack([own, partner_N], 1), torch.stack([kept_N, 1 - kept_N], 1))

    def shape(self, columns: int) -> tuple[int, int]:
        return len(self.index_NK), columns

    def row_sums(self, like: Tensor) -> Tensor:
        return self.weight_NK.to(like.dtype).sum(1)

    def column_sums(self, like: Tensor, tile: int) -> Tensor:
        return like.new_zeros(len(like)).index_add(
            0, self.index_NK.flatten(), self.weight_NK.to(like.dtype).flatten()
        )

    def apply(self, b_MD: Tensor, tile: int) -> Tensor:
        weight = self.weight_NK.to(b_MD.dtype)
        return sum(weight[:, k, None] * b_MD[self.index_NK[:, k]] for k in range(weight.shape[1]))


@dataclass(frozen=True)
class Similar:
    """Row i belongs to column j by softmax_j(cos(u_i, v_j) / temperature): what another pair of
    spaces finds alike.

    u_NE, v_ME: vectors of the rows and of the columns. They receive gradients unless they are
    detached.
    """

    u_NE: Tensor
    v_ME: Tensor
    temperature: float | Tensor

    def shape(self, columns: int) -> tuple[int, int]:
        return len(self.u_NE), len(self.v_ME)

    def _unit(self, like: Tensor) -> tuple[Tensor, Tensor]:
        u, v = (F.normalize(x.to(like.dtype), dim=1) for x in (self.u_NE, self.v_ME))
        return u / self.temperature, v

    def row_sums(self, like: Tensor) -> Tensor:
        return like.new_ones(len(self.u_NE))

    def column_sums(self, like: Tensor, tile: int) -> Tensor:
        u, v = self._unit(like)
        rows = row_log_sum_exp(u, v)
        return by_rows(lambda part: (part @ u.T - rows).exp().sum(1), v, tile=tile)

    def apply(self, b_MD: Tensor, tile: int) -> Tensor:
        u, v = self._unit(b_MD)
        return by_rows(lambda part: (part @ v.T).softmax(1) @ b_MD, u, tile=tile)


Targets = Tensor | Dense | Sparse | Similar


@full_precision
def soft_info_nce(
    a_ND: Tensor,
    b_MD: Tensor,
    targets: Targets,
    *,
    temperature: float | Tensor,
    symmetric: bool = True,
    back: Targets | None = None,
    smoothing: float = 0.0,
    tile: int = 256,
) -> Tensor:
    """Mean over rows of -sum_j P_ij log softmax_j(cos(a_i, b_j) / temperature); symmetric: averaged
    with the other direction.

    a_ND, b_MD:   vectors of N rows and M columns (cosine is taken here); M may exceed N, as with a
                  queue.
    targets:      P, (N, M): a matrix, `Sparse` or `Similar`. Identity gives `info_nce`.
    temperature:  a number, or a scalar tensor that gets a gradient.
    back:         the targets (M, N) of the direction b -> a; without it P transposed, whose rows
                  need not sum to 1.
    smoothing:    every target becomes (1 - smoothing) P + smoothing / columns, as in torch's
                  cross_entropy.
    tile:         rows of a block of a `Similar` matrix; changes memory and speed, not the result.

    No rows or no columns give a connected 0. First derivatives only. Raises ValueError for shapes
    that do not fit, a temperature that is not above 0 and a smoothing outside [0, 1].
    """
    targets = Dense(targets) if isinstance(targets, Tensor) else targets
    back = Dense(back) if isinstance(back, Tensor) else back
    check_positive("temperature", temperature)
    if a_ND.dim() != 2 or b_MD.dim() != 2 or a_ND.shape[1] != b_MD.shape[1]:
        raise ValueError(
            f"soft_info_nce needs (N, D) and (M, D) matrices of one width, got {tuple(a_ND.shape)}, {tuple(b_MD.shape)}."
        )
    n, m = len(a_ND), len(b_MD)
    for name, given, shape in (("targets", targets, (n, m)), ("back", back, (m, n))):
        if given is not None and given.shape(shape[1]) != shape:
            raise ValueError(f"{name} must be of shape {shape}, got {given.shape(shape[1])}.")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing is a share from 0 to 1, got {smoothing}.")
    if not n or not m:
        return connected_zero(a_ND, b_MD, temperature)
    a, b = F.normalize(a_ND, dim=1) / temperature, F.normalize(b_MD, dim=1)
    chance = smoothing * (
        a.sum(0) @ b.sum(0)
    )  # what smoothing adds to each direction, times its number of columns
    sums = targets.row_sums(a)
    cross = (a * targets.apply(b, tile)).sum()
    if not symmetric:
        return _mean(sums, row_log_sum_exp(a, b), cross, chance / m, smoothing)
    rows, columns = pair_log_sum_exp(a, b)
    there = _mean(sums, rows, cross, chance / m, smoothing)
    if back is None:
        sums = targets.column_sums(b, tile)
    else:
        sums, cross = back.row_sums(b), (b * back.apply(a, tile)).sum()
    return (there + _mean(sums, columns, cross, chance / n, smoothing)) / 2


def _mean(
    sums_N: Tensor, log_sum_N: Tensor, cross: Tensor, chance: Tensor, smoothing: float
) -> Tensor:
    """-1/N sum_ij P_ij (logit_ij - log_sum_i), from the row sums of P and from sum_ij P_ij
    logit_ij."""
    total = ((1 - smoothing) * sums_N + smoothing) * log_sum_N
    return (total.sum() - (1 - smoothing) * cross - chance) / len(sums_N)
