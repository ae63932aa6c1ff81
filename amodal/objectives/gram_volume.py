"""The volume that the vectors of a tuple span, and InfoNCE on it: any number of sources aligned at
once.

Cicchetti et al., ICLR 2025, arXiv:2412.11959: G_ij = m_i . m_j of unit vectors, Vol = sqrt(det G)
(their section 3), L_D2A and L_A2D with -Vol for the cosine (section 4).

Only the anchor changes between the tuples that compete, so no determinant is taken for a pair. Of
the other vectors (their Gram matrix is G_o) an orthonormal basis q_1 … q_k is made once a tuple,
and by the Schur complement

    det [[1, a^T], [a, G_o]] = det G_o (1 - a^T G_o^-1 a),    a^T G_o^-1 a = sum_m (anchor . q_m)^2:

k matrix products for N x N volumes. Gram-Schmidt gives the Cholesky factor of G_o without forming
G_o, whose condition number is the square. Near alignment sin^2 = 1 - sum is what float32 leaves of
a difference of two numbers near 1, about 1e-7: it is kept above `LEAST`, so a volume of less than
1e-3 (of a twentieth of a degree, for two vectors) counts as none, has no gradient, and the square
root's slope stays below 500. A volume does not see signs: v and -v span the same.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.tiles import by_rows

LEAST = 1e-6
"""The least squared sine that float32 can tell from zero, with a margin."""


def _basis(vectors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Volume (N,) of k vectors (N, D) of each row, of any length (directions count), and an
    orthonormal basis of their span, k times (N, D)."""
    first = F.normalize(vectors[0], dim=1)
    basis, volume = [first], first.new_ones(len(first))
    for vector in vectors[1:]:
        rest = F.normalize(vector, dim=1)
        for _ in range(2):  # the second pass removes what rounding left of the first
            for q in basis:
                rest = rest - (rest * q).sum(1, keepdim=True) * q
        height = rest.square().sum(1).clamp(min=LEAST).sqrt()
        basis.append(rest / height[:, None])
        volume = volume * height
    return volume, basis


@full_precision
def gram_volume(vectors: Sequence[Tensor]) -> Tensor:
    """(N,) sqrt(det G) of the tuples (vectors[0][i], vectors[1][i], …): 0 if collinear, 1 if
    orthogonal; |sin| for two.

    vectors: k >= 1 tensors (N, D), of any length (unit vectors are taken here). Each sine is at
    least 1e-3, see above. Raises ValueError for unequal shapes.
    """
    for other in vectors[1:]:
        check_pair("gram_volume", vectors[0], other)
    return _basis(vectors)[0]


@full_precision
def volumes(anchors_MD: Tensor, others: Sequence[Tensor]) -> Tensor:
    """(M, N) volumes of every anchor with every tuple of `others`: for retrieval, the smallest is
    the best."""
    volume_N, basis = _basis(others)
    return _volumes(F.normalize(anchors_MD, dim=1), volume_N, basis)


def _volumes(anchors_MD: Tensor, volume_N: Tensor, basis: Sequence[Tensor]) -> Tensor:
    inside = sum((anchors_MD @ q.T).square() for q in basis)
    return (1 - inside).clamp(min=LEAST).sqrt() * volume_N


@full_precision
def gram_info_nce(
    anchor_ND: Tensor,
    others: Sequence[Tensor],
    *,
    temperature: float | Tensor,
    smoothing: float = 0.1,
    more_MD: Tensor | None = None,
    tile: int = 256,
) -> Tensor:
    """(L_A2D + L_D2A) / 2: anchor i must find its tuple among N, and tuple j its anchor among N +
    M, by -volume / temperature.

    anchor_ND, others:  the anchors, and one (N, D) for each other source; row i of all is one
                        tuple.
    temperature:        a number, or a scalar tensor that gets a gradient.
    smoothing:          share of the target spread evenly over all candidates.
    more_MD:            anchors of other rows, which no tuple here belongs to.
    tile:               rows of the (N, N + M) matrix that are held at once.

    Volumes of different numbers of vectors do not compare (one more vector shrinks every volume),
    so all tuples of a call have the same sources. A tuple among anchors does compare: it is the
    same for all of them, which is why `more_MD` joins on that side only. No row, or one row and no
    other anchor, gives a connected 0. Raises ValueError for unequal shapes, no other source, a
    temperature not above 0 and a smoothing outside [0, 1).
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
    every = anchor_ND if more_MD is None else torch.cat([anchor_ND, more_MD])
    if len(anchor_ND) == 0 or len(every) < 2:
        return connected_zero(every, *others, temperature)
    anchor, every = F.normalize(anchor_ND, dim=1), F.normalize(every, dim=1)
    volume_N, basis = _basis(others)

    def summary(logits):  # what smoothed cross-entropy needs of a row besides its target
        return logits.logsumexp(1) - smoothing * logits.mean(1)

    def tuples_among_anchors(volume, *some):
        return summary(-_volumes(every, volume, some).T / temperature)

    def anchors_among_tuples(some):
        return summary(-_volumes(some, volume_N, basis) / temperature)

    own = (1 - sum((anchor * q).sum(1).square() for q in basis)).clamp(min=LEAST).sqrt() * volume_N
    right = (1 - smoothing) * (-own / temperature)
    to_anchor = by_rows(tuples_among_anchors, volume_N, *basis, tile=tile)
    to_data = by_rows(anchors_among_tuples, anchor, tile=tile)
    return ((to_anchor + to_data) / 2 - right).mean()
