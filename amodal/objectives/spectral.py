"""The spectral contrastive loss: contrast as the factorisation of a matrix of how often things come
together.

HaoChen, Wei, Gaidon and Ma, NeurIPS 2021, arXiv:2106.04156 (two views of one thing); Zhang, Wang
and Wang, ICML 2023, arXiv:2306.04272 (two sources: the matrix that is factorised is not symmetric).
"""

from torch import Tensor

from amodal.objectives.common import check_pair, connected_zero, full_precision
from amodal.objectives.square_sum import cross_square_sum


@full_precision
def spectral_contrastive(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """-2 mean_i a_i . b_i + mean_{i != j} (a_i . b_j)^2 of N rows, in memory linear in N.

    a_ND, b_ND: embeddings of the same N rows in two views or sources; vectors are taken as they
    are, since their lengths carry how common a thing is. One row or none gives a connected 0.
    Raises ValueError for unequal shapes.
    """
    check_pair("spectral_contrastive", a_ND, b_ND)
    n = len(a_ND)
    if n < 2:
        return connected_zero(a_ND, b_ND)
    own = (a_ND * b_ND).sum(1)
    # sum_ij (a_i . b_j)^2 = <A^T A, B^T B> is the square sum of the product A B^T
    every = cross_square_sum(a_ND.T.contiguous(), b_ND.T.contiguous())
    return (every - own.square().sum()) / (n * (n - 1)) - 2 * own.mean()


@full_precision
def graph_spectral(f_ND: Tensor, g_MD: Tensor, joint_NM: Tensor) -> Tensor:
    """Its expectation on a finite table: -2 sum_ij P_ij f_i . g_j + sum_ij p_i q_j (f_i . g_j)^2,
    with p and q the sums of P.

    With A = D_p^-1/2 P D_q^-1/2 and rows scaled by the roots of p and q it is |A - F G^T|^2 -
    |A|^2: what minimises it spans the largest singular vectors of A. f_ND, g_MD: a vector for each
    thing of either side (the same twice for a symmetric table); joint_NM: how often i and j come
    together, a table without negative entries. Raises ValueError for shapes that do not fit.
    """
    if joint_NM.shape != (len(f_ND), len(g_MD)) or f_ND.shape[1] != g_MD.shape[1]:
        raise ValueError(
            f"a table of {tuple(joint_NM.shape)} does not fit vectors of {tuple(f_ND.shape)} and {tuple(g_MD.shape)}."
        )
    joint = joint_NM.to(f_ND.dtype) / joint_NM.sum()
    products = f_ND @ g_MD.T
    apart = joint.sum(1)[:, None] * joint.sum(0)
    return (apart * products.square()).sum() - 2 * (joint * products).sum()
