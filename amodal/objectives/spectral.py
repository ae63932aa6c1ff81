"""The spectral contrastive loss: contrast as factorisation of a co-occurrence matrix.

HaoChen, Wei, Gaidon and Ma, NeurIPS 2021, arXiv:2106.04156 (two views of one thing); Zhang, Wang
and Wang, ICML 2023, arXiv:2306.04272 (two sources: the factorised matrix is not symmetric).
"""

from torch import Tensor

from amodal.objectives.common import check_pair, connected_zero, full_precision
from amodal.objectives.square_sum import cross_square_sum


@full_precision
def spectral_contrastive(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """Spectral contrastive loss, in memory linear in N.

        L = -2 mean_i a_i . b_i + mean_{i != j} (a_i . b_j)^2

    Args:
        a_ND, b_ND: embeddings of the same N rows in two views or sources. They are not
            normalised: their lengths carry how frequent a value is.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("spectral_contrastive", a_ND, b_ND)
    n = len(a_ND)
    if n < 2:
        return connected_zero(a_ND, b_ND)
    positive = (a_ND * b_ND).sum(1)
    # sum_ij (a_i . b_j)^2 = <A^T A, B^T B> is the square sum of the product A B^T
    squares = cross_square_sum(a_ND.T.contiguous(), b_ND.T.contiguous())
    return (squares - positive.square().sum()) / (n * (n - 1)) - 2 * positive.mean()


@full_precision
def graph_spectral(f_ND: Tensor, g_MD: Tensor, joint_NM: Tensor) -> Tensor:
    """Expectation of the loss on a finite co-occurrence table P with marginals p and q.

        L = -2 sum_ij P_ij f_i . g_j + sum_ij p_i q_j (f_i . g_j)^2

    With A = D_p^-1/2 P D_q^-1/2 and rows scaled by the roots of p and q it is |A - F G^T|^2 -
    |A|^2. Its minimisers span the largest singular vectors of A.

    Args:
        f_ND, g_MD: a vector for each element of either side (the same twice for a symmetric
            table).
        joint_NM: co-occurrences of i and j, not negative; scaled to sum 1 here.

    Raises:
        ValueError: the shapes do not fit.
    """
    if joint_NM.shape != (len(f_ND), len(g_MD)) or f_ND.shape[1] != g_MD.shape[1]:
        raise ValueError(
            f"a table of {tuple(joint_NM.shape)} does not fit vectors of {tuple(f_ND.shape)} and "
            f"{tuple(g_MD.shape)}."
        )
    joint = joint_NM.to(f_ND.dtype) / joint_NM.sum()
    products = f_ND @ g_MD.T
    independent = joint.sum(1)[:, None] * joint.sum(0)
    return (independent * products.square()).sum() - 2 * (joint * products).sum()
