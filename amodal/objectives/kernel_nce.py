"""InfoNCE with kernels exp(-distance^gamma / temperature), on a batch and on a whole graph.

Tan, Zhang, Yang and Yuan, ICLR 2024, arXiv:2303.15103: Kernel-InfoNCE and its mixtures. The
expectation of the loss on a graph of similar objects is the cross-entropy between two random
subgraphs and, with the Gaussian kernel, generalised spectral clustering.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.info_nce import info_nce, nt_xent
from amodal.objectives.tiles import by_rows

MIN_SQUARED_DISTANCE = 1e-8
"""Lower bound of a squared distance under a root, which has no gradient at 0."""


@full_precision
def kernel_info_nce(
    a_ND: Tensor,
    b_ND: Tensor,
    *,
    temperature: float | Tensor,
    gamma: float = 2.0,
    within: bool = True,
    unit: bool = True,
    tile: int = 256,
) -> Tensor:
    """InfoNCE over all 2N anchors with the kernel k = exp(-d^gamma / temperature), d Euclidean.

        L = mean_i -log( k(a_i, b_i) / sum_j k(a_i, .) )

    First derivatives only for unit vectors with gamma 2.

    Args:
        a_ND, b_ND: embeddings of the same N rows in two views or sources.
        temperature: a number, or a scalar tensor that gets a gradient. Of unit vectors gamma 2 at
            temperature t is NT-Xent at t / 2.
        gamma: 2 is the Gaussian kernel, 1 the Laplacian. Smaller ones fall off faster near 0 and
            slower far away.
        within: True sums over all other 2N - 1 values (NT-Xent), False over the N of the other
            side (CLIP's bipartite graph).
        unit: normalise vectors; False takes them as they are, as parts of unit vectors
            (`concatenated_kernel_nce`).
        tile: anchors of a block of the distance matrix; changes memory and speed, not the result.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, or `temperature` or `gamma` is not above 0.
    """
    check_pair("kernel_info_nce", a_ND, b_ND)
    check_positive("temperature", temperature)
    check_positive("gamma", gamma)
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND, temperature)
    if unit and gamma == 2:  # 2 - 2 cos is the squared distance, and the 2 cancels
        return (nt_xent if within else info_nce)(a_ND, b_ND, temperature=temperature / 2)
    a, b = (F.normalize(x, dim=1) if unit else x for x in (a_ND, b_ND))
    row = torch.arange(len(a), device=a.device)
    # a pair's own distance is a difference of vectors, not 2 - 2 cos, which has no digits left
    # where they are close
    positive = -_power((a - b).square().sum(1), gamma) / temperature

    def negatives(others_MD: Tensor, row_M: Tensor, x_tD: Tensor, row_t: Tensor) -> Tensor:
        """(t,) log of the sum of the kernel over other rows."""
        logits = -_distances(x_tD, others_MD, gamma) / temperature
        return logits.masked_fill(row_t[:, None] == row_M, -math.inf).logsumexp(1)

    if within:
        z, rows = torch.cat([a, b]), row.repeat(2)
        log_sum = by_rows(lambda *t: negatives(z, rows, *t), z, rows, tile=tile)
    else:
        log_sum = torch.cat(
            [
                by_rows(lambda *t, y=y: negatives(y, row, *t), x, row, tile=tile)
                for x, y in ((a, b), (b, a))
            ]
        )
    # the row's own values are masked above; softplus adds the positive to the sum again
    return F.softplus(log_sum - positive.repeat(2)).mean()


@full_precision
def concatenated_kernel_nce(
    a_ND: Tensor,
    b_ND: Tensor,
    *,
    temperature: float | Tensor,
    gammas: tuple[float, float],
    share: float,
    within: bool,
) -> Tensor:
    """The concatenation mixture: each of two kernels has half of the coordinates.

        L = share L_gammas[0](first half) + (1 - share) L_gammas[1](second half)

    Args:
        a_ND, b_ND: embeddings of an even width D; normalised here, before they are split.
        temperature, within: as in `kernel_info_nce`.
        gammas: exponents of the two kernels.
        share: weight of the first.

    Raises:
        ValueError: as in `kernel_info_nce`, or D is odd.
    """
    check_pair("concatenated_kernel_nce", a_ND, b_ND)
    if a_ND.shape[1] % 2:
        raise ValueError(
            f"two kernels that share the coordinates need an even width, got {a_ND.shape[1]}."
        )
    halves = zip(*(F.normalize(x, dim=1).chunk(2, 1) for x in (a_ND, b_ND)))
    losses = [
        kernel_info_nce(a, b, temperature=temperature, gamma=gamma, within=within, unit=False)
        for (a, b), gamma in zip(halves, gammas)
    ]
    return share * losses[0] + (1 - share) * losses[1]


@full_precision
def graph_info_nce(
    z_ND: Tensor,
    graph_NM: Tensor,
    other_MD: Tensor | None = None,
    *,
    temperature: float | Tensor,
    gamma: float = 2.0,
    unit: bool = True,
) -> Tensor:
    """Expectation of the loss on a finite graph. The N x M matrix is held whole.

        L = -sum_ij pi_ij log( k(z_i, z_j) / sum_l k(z_i, z_l) ) / sum_ij pi_ij

    Args:
        z_ND: a vector for each node.
        graph_NM: pi, how often j is drawn as the positive of i; rows need not sum to 1.
        other_MD: vectors of the other side of a bipartite graph. None: the graph is (N, N) on one
            set of nodes, and l runs over l != i.
        temperature, gamma, unit: as in `kernel_info_nce`.

    Raises:
        ValueError: the shapes do not fit, or `temperature` or `gamma` is not above 0.
    """
    check_positive("temperature", temperature)
    check_positive("gamma", gamma)
    other = z_ND if other_MD is None else other_MD
    if graph_NM.shape != (len(z_ND), len(other)):
        raise ValueError(
            f"a graph of {len(z_ND)} by {len(other)} nodes is no matrix of {tuple(graph_NM.shape)}."
        )
    a, b = (F.normalize(x, dim=1) if unit else x for x in (z_ND, other))
    logits = -_distances(a, b, gamma) / temperature
    log_sum = logits if other_MD is not None else logits.masked_fill(_diagonal(logits), -math.inf)
    pi = graph_NM.to(logits.dtype)
    return ((pi * (log_sum.logsumexp(1, keepdim=True) - logits)).sum()) / pi.sum()


def _diagonal(matrix_NN: Tensor) -> Tensor:
    return torch.eye(len(matrix_NN), dtype=torch.bool, device=matrix_NN.device)


def _distances(a_MD: Tensor, b_ND: Tensor, gamma: float) -> Tensor:
    """(M, N) d^gamma."""
    square = a_MD.square().sum(1)[:, None] + b_ND.square().sum(1) - 2 * a_MD @ b_ND.T
    return _power(square, gamma)


def _power(square: Tensor, gamma: float) -> Tensor:
    return square if gamma == 2 else square.clamp_min(MIN_SQUARED_DISTANCE).pow(gamma / 2)
