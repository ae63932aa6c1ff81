"""Contrastive losses of any number of views of a sample: MV-InfoNCE and MV-DHEL, and what they are
compared with.

Koromilas et al. 2025, arXiv:2507.06979, section IV. All take a table of N samples by V views, of
which some may be absent: z_NVD the vectors, of any length (cosines are taken here), present_NV bool
where there is one; what stands elsewhere is not read. temperature: a number, or a scalar tensor
that gets a gradient. A sample with one view has no positive: it has no term of its own, and is a
negative of the others'. Memory is linear in N. Fewer than two samples, or none with two views, give
a connected 0. First derivatives only. Raises ValueError for shapes that do not fit and a
temperature that is not above 0.
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
    """-1/N sum_i log( sum_{l != m} s(z_i^l, z_i^m) / sum_l sum_{(j, m) != (i, l)} s(z_i^l, z_j^m)
    ), s(a, b) = exp(cos / temperature).

    One term a sample: all pairs of its views above, and below all pairs of one of its views with
    any other vector. The paper's sums, over the views that there are.
    """
    z_NVD = _present("mv_info_nce", z_NVD, present_NV, temperature)
    several = present_NV.sum(1) > 1
    if len(z_NVD) < 2 or not several.any():
        return connected_zero(z_NVD, temperature)
    z = _scaled(z_NVD, temperature)
    below = _fill(present_NV, self_log_sum_exp(z[present_NV], tile=tile), -math.inf)[
        several
    ].logsumexp(1)
    # every pair counts in both orders
    return (below - _pairs(z[several], present_NV[several]) - math.log(2)).mean()


@full_precision
def mv_dhel(
    z_NVD: Tensor, present_NV: Tensor, *, temperature: float | Tensor, tile: int = 1024
) -> Tensor:
    """-1/N sum_i log( sum_{l < m} s(z_i^l, z_i^m) / prod_l sum_{j != i} s(z_i^l, z_j^l) ):
    alignment across views, uniformity inside each; positives do not enter the repulsion. Of two
    views it is DHEL.

    The product goes over the views that a sample has and that some other sample has too.
    """
    z_NVD = _present("mv_dhel", z_NVD, present_NV, temperature)
    several = present_NV.sum(1) > 1
    if len(z_NVD) < 2 or not several.any():
        return connected_zero(z_NVD, temperature)
    z = _scaled(z_NVD, temperature)
    below = z.new_zeros(len(z))
    for view, there in zip(z.unbind(1), present_NV.unbind(1)):
        if there.sum() > 1:
            below = below.masked_scatter(
                there, below[there] + self_log_sum_exp(view[there].contiguous(), tile=tile)
            )
    return (below[several] - _pairs(z[several], present_NV[several])).mean()


@full_precision
def multi_positive(
    z_NVD: Tensor, present_NV: Tensor, *, temperature: float | Tensor, tile: int = 1024
) -> Tensor:
    """NT-Xent with all other views of a sample as positives: for each vector, the mean over its
    positives of -log softmax over all other vectors; the mean over vectors that have a positive."""
    z_NVD = _present("multi_positive", z_NVD, present_NV, temperature)
    several = present_NV.sum(1) > 1
    if len(z_NVD) < 2 or not several.any():
        return connected_zero(z_NVD, temperature)
    z = _scaled(z_NVD, temperature)
    below = _fill(present_NV, self_log_sum_exp(z[present_NV], tile=tile), 0.0)[several]
    z, present_NV = z[several], present_NV[several]
    own = (z * z).sum(2)
    above = ((z * z.sum(1, keepdim=True)).sum(2) - own) / (present_NV.sum(1, keepdim=True) - 1)
    return (below - above)[present_NV].mean()


@full_precision
def pairwise(
    z_NVD: Tensor, present_NV: Tensor, *, temperature: float | Tensor, tile: int = 1024
) -> Tensor:
    """PWE: the mean over pairs of views of NT-Xent, each over the samples that have both."""
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
    """AVG: the mean over views of NT-Xent between the view and the mean of the other unit vectors
    of its sample, which is not brought to unit length again: logits are plain products, as in the
    authors' code."""
    z_NVD = _present("average", z_NVD, present_NV, temperature)
    z, several, terms = (
        _scaled(z_NVD, temperature),
        present_NV.sum(1) > 1,
        [connected_zero(z_NVD, temperature)],
    )
    for view in range(z_NVD.shape[1]):
        there = present_NV[:, view] & several
        if there.sum() > 1:
            one = z[there, view]
            rest = (z[there].sum(1) - one) / (present_NV[there].sum(1, keepdim=True) - 1)
            terms.append(
                self_log_sum_exp(torch.cat([one, rest]), tile=tile).mean()
                - (one * rest).sum(1).mean()
            )
    return torch.stack(terms).sum() / max(z_NVD.shape[1], 1)


def _scaled(z_NVD: Tensor, temperature: float | Tensor) -> Tensor:
    """Unit vectors over the root of the temperature, so that products are logits."""
    return F.normalize(z_NVD, dim=2) / temperature**0.5


def _fill(present_NV: Tensor, values_T: Tensor, rest: float) -> Tensor:
    """(N, V): the values where there is a view, in the order of rows; `rest` elsewhere."""
    return values_T.new_full(present_NV.shape, rest).masked_scatter(present_NV, values_T)


def _pairs(z_NVD: Tensor, present_NV: Tensor) -> Tensor:
    """(N,) log sum_{l < m} exp z_l . z_m over the pairs of views that a sample has."""
    views = z_NVD.shape[1]
    first, second = torch.triu_indices(views, views, 1, device=z_NVD.device)
    logits = torch.bmm(z_NVD, z_NVD.transpose(1, 2))[:, first, second]
    return logits.masked_fill(~(present_NV[:, first] & present_NV[:, second]), -math.inf).logsumexp(
        1
    )


def _present(name: str, z_NVD: Tensor, present_NV: Tensor, temperature: float | Tensor) -> Tensor:
    """The table with zeros where there is nothing, after the checks."""
    check_positive("temperature", temperature)
    if z_NVD.dim() != 3 or present_NV.shape != z_NVD.shape[:2] or present_NV.dtype != torch.bool:
        raise ValueError(
            f"{name} needs a table (N, V, D) of vectors and (N, V) bool of which are there, "
            f"got {tuple(z_NVD.shape)} and {tuple(present_NV.shape)} {present_NV.dtype}."
        )
    return z_NVD.masked_fill(~present_NV[:, :, None], 0.0)
