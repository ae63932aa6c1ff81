"""Divergence of Gaussians from the prior of a variational autoencoder.

Kingma and Welling, ICLR 2014, arXiv:1312.6114, appendix B.
"""

from torch import Tensor

from amodal.objectives.common import check_pair, connected_zero, full_precision


@full_precision
def gaussian_kl(mean_ND: Tensor, log_variance_ND: Tensor) -> Tensor:
    """Mean divergence of diagonal Gaussians from the standard normal, in nats.

        L = mean_i KL(N(mean_i, diag(variance_i)) || N(0, I))

    Returns:
        A scalar. Without rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes differ.
    """
    check_pair("gaussian_kl", mean_ND, log_variance_ND)
    if not len(mean_ND):
        return connected_zero(mean_ND, log_variance_ND)
    return kl_per_row(mean_ND, log_variance_ND).mean()


def kl_per_row(mean_ND: Tensor, log_variance_ND: Tensor) -> Tensor:
    """(N,) 1/2 sum_d (variance + mean^2 - 1 - log variance), the divergence of each row."""
    return (log_variance_ND.exp() + mean_ND.square() - 1 - log_variance_ND).sum(1) / 2
