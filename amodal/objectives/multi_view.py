"""Contrastive losses of any number of views: MV-InfoNCE and MV-DHEL, and their baselines.

Koromilas et al. 2025, arXiv:2507.06979, section IV. Common arguments:

    z_NVD: embeddings of V views of N samples; normalised here.
    present_NV: bool, which views exist. Embeddings of absent views are not read.
    temperature: a number, or a scalar tensor that gets a gradient.
    tile: side of a block of the similarity matrix; changes memory and speed, not the result.

A sample with one view has no positive: it has no term of its own, and is a negative of the others.
Memory is linear in N. Fewer than two samples, or none with two views, give 0, connected to the
inputs. First derivatives only.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision
from amodal.objectives.info_nce import nt_xent
from amodal.objectives.log_sum_exp import self_log_sum_exp


@full_precision
def mv_info_nce(
    z_NVD: Tensor, present_NV: Tensor, *, temperature: float | Tensor, tile: int = 1024
) -> Tensor:
    """MV-InfoNCE: one term a sample, with all pairs of its views as the positive.

        L = -1/N sum_i log( sum_{l != m} s(z_i^l, z_i^m)
                        / sum_l sum_{(j, m) != (i, l)} s(z_i^l, z_j^m) )

    s(a, b) = exp(cos / temperature). The paper's sums, over the views that exist.

    Args:
        z_NVD, present_NV, temperature, tile: see the top of this file.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit, or `temperature` is not above 0.
    """
    z_NVD = _present("mv_info_nce", z_NVD, present_NV, temperature)
    has_pair = present_NV.sum(1) > 1
    if present_NV.any(1).sum() < 2 or not has_pair.any():
        return connected_zero(z_NVD, temperature)
    z = _scaled(z_NVD, temperature)
    log_sum = _scatter(present_NV, self_log_sum_exp(z[present_NV], tile=tile), -math.inf)[
        has_pair
    ].logsumexp(1)
    # every pair counts in both orders
    return (log_sum - _pair_log_sum_exp(z[has_pair], present_NV[has_pair]) - math.log(2)).mean()


@full_precision
def mv_dhel(
    z_NVD: Tensor, present_NV: Tensor, *, temperature: float | Tensor, tile: int = 1024
) -> Tensor:
    """MV-DHEL: alignment across views, uniformity inside each view.

        L = -1/N sum_i log( sum_{l < m} s(z_i^l, z_i^m) / prod_l sum_{j != i} s(z_i^l, z_j^l) )

    Positives do not enter the repulsion. With two views it is DHEL. The product runs over the
    views that the sample has and that another sample has too.

    Args:
        z_NVD, present_NV, temperature, tile: see the top of this file.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit, or `temperature` is not above 0.
    """
    z_NVD = _present("mv_dhel", z_NVD, present_NV, temperature)
    has_pair = present_NV.sum(1) > 1
    if present_NV.any(1).sum() < 2 or not has_pair.any():
        return connected_zero(z_NVD, temperature)
    z = _scaled(z_NVD, temperature)
    log_sum = z.new_zeros(len(z))
    for view, present in zip(z.unbind(1), present_NV.unbind(1)):
        if present.sum() > 1:
            log_sum = log_sum.masked_scatter(
                present, log_sum[present] + self_log_sum_exp(view[present].contiguous(), tile=tile)
            )
    return (log_sum[has_pair] - _pair_log_sum_exp(z[has_pair], present_NV[has_pair])).mean()


@full_precision
def multi_positive(
    z_NVD: Tensor, present_NV: Tensor, *, temperature: float | Tensor, tile: int = 1024
) -> Tensor:
    """NT-Xent with all other views of a sample as positives.

    For each vector the mean over its positives of -log softmax over all other vectors, then the
    mean over vectors that have a positive.

    Args:
        z_NVD, present_NV, temperature, tile: see the top of this file.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit, or `temperature` is not above 0.
    """
    z_NVD = _present("multi_positive", z_NVD, present_NV, temperature)
    has_pair = present_NV.sum(1) > 1
    if present_NV.any(1).sum() < 2 or not has_pair.any():
        return connected_zero(z_NVD, temperature)
    z = _scaled(z_NVD, temperature)
    log_sum = _scatter(present_NV, self_log_sum_exp(z[present_NV], tile=tile), 0.0)[has_pair]
    z, present_NV = z[has_pair], present_NV[has_pair]
    squared_norm = (z * z).sum(2)
    positive = ((z * z.sum(1, keepdim=True)).sum(2) - squared_norm) / (
        present_NV.sum(1, keepdim=True) - 1
    )
    return (log_sum - positive)[present_NV].mean()


@full_precision
def pairwise(
    z_NVD: Tensor, present_NV: Tensor, *, temperature: float | Tensor, tile: int = 1024
) -> Tensor:
    """PWE: the mean over pairs of views of NT-Xent, each over the samples that have both.

    Args:
        z_NVD, present_NV, temperature, tile: see the top of this file.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit, or `temperature` is not above 0.
    """
    z_NVD = _present("pairwise", z_NVD, present_NV, temperature)
    terms = [connected_zero(z_NVD, temperature)]
    for a, b in itertools.combinations(range(z_NVD.shape[1]), 2):
        both = present_NV[:, a] & present_NV[:, b]
        terms.append(nt_xent(z_NVD[both, a], z_NVD[both, b], temperature=temperature, tile=tile))
    return torch.stack(terms).sum() / max(len(terms) - 1, 1)


@full_precision
def average(
    z_NVD: Tensor, present_NV: Tensor, *, temperature: float | Tensor, tile: int = 1024
) -> Tensor:
    """AVG: NT-Xent between a view and the mean of the other unit vectors, averaged over views.

    The mean is not normalised: logits are plain products, as in the authors' code.

    Args:
        z_NVD, present_NV, temperature, tile: see the top of this file.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit, or `temperature` is not above 0.
    """
    z_NVD = _present("average", z_NVD, present_NV, temperature)
    z, has_pair, terms = (
        _scaled(z_NVD, temperature),
        present_NV.sum(1) > 1,
        [connected_zero(z_NVD, temperature)],
    )
    for view in range(z_NVD.shape[1]):
        present = present_NV[:, view] & has_pair
        if present.sum() > 1:
            view_ND = z[present, view]
            mean_ND = (z[present].sum(1) - view_ND) / (present_NV[present].sum(1, keepdim=True) - 1)
            terms.append(
                self_log_sum_exp(torch.cat([view_ND, mean_ND]), tile=tile).mean()
                - (view_ND * mean_ND).sum(1).mean()
            )
    return torch.stack(terms).sum() / max(z_NVD.shape[1], 1)


def _scaled(z_NVD: Tensor, temperature: float | Tensor) -> Tensor:
    """Unit vectors divided by the root of the temperature, so that products are logits."""
    return F.normalize(z_NVD, dim=2) / temperature**0.5


def _scatter(present_NV: Tensor, values_T: Tensor, fill: float) -> Tensor:
    """(N, V): the values where a view exists, in the order of rows; `fill` elsewhere."""
    return values_T.new_full(present_NV.shape, fill).masked_scatter(present_NV, values_T)


def _pair_log_sum_exp(z_NVD: Tensor, present_NV: Tensor) -> Tensor:
    """(N,) log sum_{l < m} exp(z_l . z_m) over the pairs of views that a sample has."""
    views = z_NVD.shape[1]
    first, second = torch.triu_indices(views, views, 1, device=z_NVD.device)
    logits = torch.bmm(z_NVD, z_NVD.transpose(1, 2))[:, first, second]
    return logits.masked_fill(~(present_NV[:, first] & present_NV[:, second]), -math.inf).logsumexp(
        1
    )


def _present(name: str, z_NVD: Tensor, present_NV: Tensor, temperature: float | Tensor) -> Tensor:
    """Embeddings with zeros in place of absent views, after the checks."""
    check_positive("temperature", temperature)
    if z_NVD.dim() != 3 or present_NV.shape != z_NVD.shape[:2] or present_NV.dtype != torch.bool:
        raise ValueError(
            f"{name} needs a table (N, V, D) of vectors and (N, V) bool of which are there, "
            f"got {tuple(z_NVD.shape)} and {tuple(present_NV.shape)} {present_NV.dtype}."
        )
    return z_NVD.masked_fill(~present_NV[:, :, None], 0.0)
