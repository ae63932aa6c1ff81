"""InfoNCE with soft targets: a row may have more than one positive, with weights.

Cross-entropy between softmax(cos / temperature) and a target distribution, as used by mixup
contrast (Kumar et al. 2024, arXiv:2409.17777, eq. 3-6; Scotti et al. 2023, arXiv:2305.18274), by
CutMix contrast and by semantic matching. Targets are a matrix, a few indices and weights a row, or
the softmax of another similarity, which is made tile by tile and never held whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import pair_log_sum_exp, row_log_sum_exp
from amodal.objectives.tiles import by_rows


@dataclass(frozen=True)
class DenseTargets:
    """Targets as a matrix.

    Attributes:
        matrix_NM: weight of column j for row i; rows need not sum to 1.
    """

    matrix_NM: Tensor

    def shape(self, columns: int) -> tuple[int, int]:
        rows, columns = self.matrix_NM.shape
        return rows, columns

    def row_sums(self, like: Tensor) -> Tensor:
        return self.matrix_NM.to(like.dtype).sum(1)

    def column_sums(self, like: Tensor, tile: int) -> Tensor:
        return self.matrix_NM.to(like.dtype).sum(0)

    def apply(self, b_MD: Tensor, tile: int) -> Tensor:
        return self.matrix_NM.to(b_MD.dtype) @ b_MD


@dataclass(frozen=True)
class SparseTargets:
    """Targets as K columns and weights for each row.

    Attributes:
        index_NK: int64, columns. One that occurs twice counts twice.
        weight_NK: their weights.
    """

    index_NK: Tensor
    weight_NK: Tensor

    @staticmethod
    def mixup(partner_N: Tensor, lam_N: Tensor) -> SparseTargets:
        """Targets of mixup and CutMix: row i with weight lam, its partner with 1 - lam."""
        index = torch.arange(len(partner_N), device=partner_N.device)
        return SparseTargets(torch.stack([index, partner_N], 1), torch.stack([lam_N, 1 - lam_N], 1))

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
        terms = (weight[:, k, None] * b_MD[self.index_NK[:, k]] for k in range(weight.shape[1]))
        return sum(terms, b_MD.new_zeros(()))


@dataclass(frozen=True)
class SimilarityTargets:
    """Targets softmax_j(cos(u_i, v_j) / temperature) from another pair of embeddings.

    Attributes:
        u_NE, v_ME: embeddings of rows and columns; they get gradients unless detached.
        temperature: of the softmax.
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


class SoftTargets(Protocol):
    """A target matrix P (N, M), which need not be held whole."""

    def shape(self, columns: int) -> tuple[int, int]:
        """(N, M), if there are `columns` columns."""

    def row_sums(self, like: Tensor) -> Tensor:
        """(N,) in the dtype of `like`."""

    def column_sums(self, like: Tensor, tile: int) -> Tensor:
        """(M,) in the dtype of `like`, `tile` columns at a time."""

    def apply(self, b_MD: Tensor, tile: int) -> Tensor:
        """P b, (N, D), `tile` rows at a time."""


Targets = Tensor | SoftTargets


@full_precision
def soft_info_nce(
    a_ND: Tensor,
    b_MD: Tensor,
    targets: Targets,
    *,
    temperature: float | Tensor,
    symmetric: bool = True,
    reverse_targets: Targets | None = None,
    smoothing: float = 0.0,
    tile: int = 256,
) -> Tensor:
    """Cross-entropy under soft targets P, averaged with the other direction if `symmetric`.

        L = -1/N sum_ij P_ij log softmax_j(cos(a_i, b_j) / temperature)

    First derivatives only.

    Args:
        a_ND, b_MD: embeddings; normalised here. M may exceed N, as with a queue.
        targets: P, (N, M): a matrix, `SparseTargets` or `SimilarityTargets`. The identity gives
            `info_nce`.
        temperature: a number, or a scalar tensor that gets a gradient.
        symmetric: average with the direction b -> a.
        reverse_targets: targets (M, N) of that direction; None for P transposed, whose rows need
            not sum to 1.
        smoothing: targets become (1 - smoothing) P + smoothing / columns, as in torch's
            cross_entropy.
        tile: rows of a block of `SimilarityTargets`; changes memory and speed, not the result.

    Returns:
        A scalar. Without rows or columns: 0, connected to the inputs.

    Raises:
        ValueError: the shapes do not fit, `temperature` is not above 0, or `smoothing` is outside
            [0, 1].
    """
    targets = DenseTargets(targets) if isinstance(targets, Tensor) else targets
    reverse_targets = (
        DenseTargets(reverse_targets) if isinstance(reverse_targets, Tensor) else reverse_targets
    )
    check_positive("temperature", temperature)
    if a_ND.dim() != 2 or b_MD.dim() != 2 or a_ND.shape[1] != b_MD.shape[1]:
        raise ValueError(
            "soft_info_nce needs (N, D) and (M, D) matrices of one width, got "
            f"{tuple(a_ND.shape)}, {tuple(b_MD.shape)}."
        )
    n, m = len(a_ND), len(b_MD)
    for name, target, shape in (
        ("targets", targets, (n, m)),
        ("reverse_targets", reverse_targets, (m, n)),
    ):
        if target is not None and target.shape(shape[1]) != shape:
            raise ValueError(f"{name} must be of shape {shape}, got {target.shape(shape[1])}.")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing is a share from 0 to 1, got {smoothing}.")
    if not n or not m:
        return connected_zero(a_ND, b_MD, temperature)
    a, b = F.normalize(a_ND, dim=1) / temperature, F.normalize(b_MD, dim=1)
    # what smoothing adds to each direction, times its number of columns
    uniform_term = smoothing * (a.sum(0) @ b.sum(0))
    sums = targets.row_sums(a)
    cross = (a * targets.apply(b, tile)).sum()
    if not symmetric:
        return _mean(sums, row_log_sum_exp(a, b), cross, uniform_term / m, smoothing)
    rows, columns = pair_log_sum_exp(a, b)
    forward_loss = _mean(sums, rows, cross, uniform_term / m, smoothing)
    if reverse_targets is None:
        sums = targets.column_sums(b, tile)
    else:
        sums, cross = reverse_targets.row_sums(b), (b * reverse_targets.apply(a, tile)).sum()
    return (forward_loss + _mean(sums, columns, cross, uniform_term / n, smoothing)) / 2


def _mean(
    sums_N: Tensor, log_sum_N: Tensor, cross: Tensor, uniform_term: Tensor, smoothing: float
) -> Tensor:
    """-1/N sum_ij P_ij (logit_ij - log_sum_i), from row sums of P and sum_ij P_ij logit_ij."""
    total = ((1 - smoothing) * sums_N + smoothing) * log_sum_N
    return (total.sum() - (1 - smoothing) * cross - uniform_term) / len(sums_N)
