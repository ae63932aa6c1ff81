"""GRAM: InfoNCE on the volume that the vectors of a tuple span, for any number of sources.

Cicchetti et al., ICLR 2025, arXiv:2412.11959: G_ij = m_i . m_j of unit vectors, Vol = sqrt(det G)
(their section 3), L_D2A and L_A2D with -Vol in place of the cosine (section 4).

Competing tuples differ only in their anchor, so no determinant is computed for a pair. Of the other
vectors (their Gram matrix is G_o) an orthonormal basis q_1 … q_k is made once a tuple. By the Schur
complement

    det [[1, a^T], [a, G_o]] = det G_o (1 - a^T G_o^-1 a),    a^T G_o^-1 a = sum_m (anchor . q_m)^2:

k matrix products for N x N volumes. Gram-Schmidt gives the Cholesky factor of G_o without forming
G_o, whose condition number is the square. Near alignment sin^2 = 1 - sum is what float32 leaves of
a difference of two numbers near 1, about 1e-7. It is clamped at `EPS`: a volume below 1e-3 (a
twentieth of a degree, for two vectors) has no gradient, and the slope of the root stays below 500.
A volume ignores signs: v and -v span the same.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.tiles import by_rows

EPS = 1e-6
"""Lower bound of a squared sine: what float32 resolves near 0, with a margin."""


def _basis(vectors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Volume (N,) of the k vectors (N, D) of each row, and an orthonormal basis, k times (N, D)."""
    first = F.normalize(vectors[0], dim=1)
    basis, volume = [first], first.new_ones(len(first))
    for vector in vectors[1:]:
        rest = F.normalize(vector, dim=1)
        for _ in range(2):  # the second pass removes what rounding left of the first
            for q in basis:
                rest = rest - (rest * q).sum(1, keepdim=True) * q
        sine = rest.square().sum(1).clamp(min=EPS).sqrt()
        basis.append(rest / sine[:, None])
        volume = volume * sine
    return volume, basis


@full_precision
def gram_volume(vectors: Sequence[Tensor]) -> Tensor:
    """Volume of the parallelotope that the unit vectors of each row span.

        Vol_i = sqrt(det G_i),  G_i the Gram matrix of (vectors[0][i], vectors[1][i], …)

    Args:
        vectors: k >= 1 tensors (N, D); normalised here.

    Returns:
        (N,): 0 if collinear, 1 if orthogonal, |sin| for two. Each sine is at least 1e-3.

    Raises:
        ValueError: the shapes differ.
    """
    for other in vectors[1:]:
        check_pair("gram_volume", vectors[0], other)
    return _basis(vectors)[0]


@full_precision
def volumes(anchors_MD: Tensor, others: Sequence[Tensor]) -> Tensor:
    """(M, N) volume of every anchor with every tuple of `others`. For retrieval, lower is better.

    Args:
        anchors_MD: anchors; normalised here.
        others: one tensor (N, D) for each other source.
    """
    volume_N, basis = _basis(others)
    return _volumes(F.normalize(anchors_MD, dim=1), volume_N, basis)


def _volumes(anchors_MD: Tensor, volume_N: Tensor, basis: Sequence[Tensor]) -> Tensor:
    inside = sum(((anchors_MD @ q.T).square() for q in basis), anchors_MD.new_zeros(()))
    return (1 - inside).clamp(min=EPS).sqrt() * volume_N


@full_precision
def gram_info_nce(
    anchor_ND: Tensor,
    others: Sequence[Tensor],
    *,
    temperature: float | Tensor,
    smoothing: float = 0.1,
    extra_anchor_MD: Tensor | None = None,
    tile: int = 256,
) -> Tensor:
    """InfoNCE between anchors and tuples, by -volume / temperature.

        L = (L_A2D + L_D2A) / 2

    L_A2D: anchor i is classified among N tuples. L_D2A: tuple j among N + M anchors. Volumes of
    different numbers of vectors do not compare (one more vector shrinks every volume), so all
    tuples of a call have the same sources. A tuple is the same for all anchors, so
    `extra_anchor_MD` can join on that side, and only there.

    Args:
        anchor_ND: the anchors.
        others: one tensor (N, D) for each other source; row i of all is one tuple.
        temperature: a number, or a scalar tensor that gets a gradient.
        smoothing: label smoothing, in [0, 1).
        extra_anchor_MD: anchors of other rows, which belong to no tuple here.
        tile: rows of the (N, N + M) matrix at a time.

    Returns:
        A scalar. Without rows, or one row and no other anchor: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, there is no other source, `temperature` is not above 0, or
            `smoothing` is outside [0, 1).
    """
    if not others:
        raise ValueError(
            "gram_info_nce compares an anchor with at least one other source, got none."
        )
    for other in others:
        check_pair("gram_info_nce", anchor_ND, other)
    check_positive("temperature", temperature)
    if not 0 <= smoothing < 1:
        raise ValueError(
            f"smoothing is a share of the target and must be in [0, 1), got {smoothing}."
        )
    candidates = anchor_ND if extra_anchor_MD is None else torch.cat([anchor_ND, extra_anchor_MD])
    if len(anchor_ND) == 0 or len(candidates) < 2:
        return connected_zero(candidates, *others, temperature)
    anchor, candidates = F.normalize(anchor_ND, dim=1), F.normalize(candidates, dim=1)
    volume_N, basis = _basis(others)

    def smoothed_log_sum_exp(logits: Tensor) -> Tensor:
        # smoothed cross-entropy of a row, without the term of its target
        return logits.logsumexp(1) - smoothing * logits.mean(1)

    def tuples_among_anchors(volume_t: Tensor, *basis_tD: Tensor) -> Tensor:
        return smoothed_log_sum_exp(-_volumes(candidates, volume_t, basis_tD).T / temperature)

    def anchors_among_tuples(anchor_tD: Tensor) -> Tensor:
        return smoothed_log_sum_exp(-_volumes(anchor_tD, volume_N, basis) / temperature)

    inside = sum(((anchor * q).sum(1).square() for q in basis), anchor.new_zeros(()))
    positive_volume = (1 - inside).clamp(min=EPS).sqrt() * volume_N
    positive_logit = (1 - smoothing) * (-positive_volume / temperature)
    to_anchor = by_rows(tuples_among_anchors, volume_N, *basis, tile=tile)
    to_data = by_rows(anchors_among_tuples, anchor, tile=tile)
    return ((to_anchor + to_data) / 2 - positive_logit).mean()
