"""Two views of a row should fall into the same clusters: the symmetric Kullback-Leibler divergence
of their distributions. Kullback and Leibler 1951; as the cluster loss of MIRROR, Wang et al. 2025,
arXiv:2503.00374."""

from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision


@full_precision
def symmetric_kl(a_NK: Tensor, b_NK: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean over rows of (KL(p || q) + KL(q || p)) / 2, p and q the softmax of the scores a /
    temperature and b / temperature.

    Both sides get a gradient, and agreeing on one cluster for all rows costs nothing: something
    else has to keep rows apart. No rows give a connected 0. Raises ValueError for unequal shapes.
    """
    check_pair("symmetric_kl", a_NK, b_NK)
    check_positive("temperature", temperature)
    if not len(a_NK):
        return connected_zero(a_NK, b_NK)
    log_p, log_q = ((x / temperature).log_softmax(1) for x in (a_NK, b_NK))
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean() / 2
