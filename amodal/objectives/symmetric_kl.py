"""Cluster agreement of two views: the symmetric Kullback-Leibler divergence.

Kullback and Leibler 1951; as the cluster loss of MIRROR, Wang et al. 2025, arXiv:2503.00374.
"""

from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision


@full_precision
def symmetric_kl(a_NK: Tensor, b_NK: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Divergence between the cluster distributions p and q of two views.

        L = mean_i (KL(p_i || q_i) + KL(q_i || p_i)) / 2,  p, q = softmax(a, b / temperature)

    Both sides get gradients. One cluster for all rows costs nothing: another loss has to keep
    rows apart.

    Args:
        a_NK, b_NK: scores of K clusters.
        temperature: of both.

    Returns:
        A scalar. Without rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ, or `temperature` is not above 0.
    """
    check_pair("symmetric_kl", a_NK, b_NK)
    check_positive("temperature", temperature)
    if not len(a_NK):
        return connected_zero(a_NK, b_NK)
    log_p, log_q = ((x / temperature).log_softmax(1) for x in (a_NK, b_NK))
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean() / 2
