"""How far Gaussians are from the standard one: the prior term of a variational autoencoder, and the
whole of its loss. Kingma and Welling, ICLR 2014, arXiv:1312.6114, appendix B."""

from torch import Tensor

from amodal.objectives.common import check_pair, connected_zero, full_precision


@full_precision
def gaussian_kl(mean_ND: Tensor, log_variance_ND: Tensor) -> Tensor:
    """Mean over rows of KL(N(mean, diag(variance)) || N(0, I)) = 1/2 sum_d (variance + mean^2 - 1 -
    log variance), in nats.

    No rows give a connected 0. Raises ValueError for unequal shapes.
    """
    check_pair("gaussian_kl", mean_ND, log_variance_ND)
    if not len(mean_ND):
        return connected_zero(mean_ND, log_variance_ND)
    return each_kl(mean_ND, log_variance_ND).mean()


def each_kl(mean_ND: Tensor, log_variance_ND: Tensor) -> Tensor:
    """(N,): of every row."""
    return (log_variance_ND.exp() + mean_ND.square() - 1 - log_variance_ND).sum(1) / 2


@full_precision
def negative_elbo(
    x_ND: Tensor, decoded_ND: Tensor, mean_NL: Tensor, log_variance_NL: Tensor
) -> Tensor:
    """(N,): what a variational autoencoder minimises, half the squared error of a draw's
    reconstruction (a Gaussian of variance 1, without its constant) plus the prior term, in nats."""
    return (x_ND - decoded_ND).square().sum(1) / 2 + each_kl(mean_NL, log_variance_NL)
