"""The cross-modal terms of DeCUR: some dimensions agree between modalities, the rest do not.

Wang et al., ECCV 2024, arXiv:2309.05300, eq. 2-5. The terms inside each modality are `barlow_twins`
on its two views.
"""

from torch import Tensor

from amodal.objectives.barlow import cross_correlation_terms
from amodal.objectives.common import check_pair, connected_zero, full_precision


@full_precision
def decur(
    a_ND: Tensor, b_ND: Tensor, *, common: float, off_diagonal: float = 5e-3
) -> tuple[Tensor, Tensor]:
    """(common_loss, unique_loss) of two modalities' projections of the same N rows.

    common:        share of the D dimensions, the first round(common * D), whose correlation is
                   driven to 1;
                   the correlation of each remaining dimension with itself is driven to 0.
    off_diagonal:  weight of C_ij^2, i != j, within each of the two blocks; between the blocks
                   nothing is asked.

    A block without dimensions, and fewer than two rows, give a connected 0. First derivatives only.
    Raises ValueError for unequal shapes and for a share outside [0, 1].
    """
    check_pair("decur", a_ND, b_ND)
    if not 0 <= common <= 1:
        raise ValueError(f"common is a share of the dimensions, between 0 and 1, got {common}.")
    split = round(common * a_ND.shape[1])
    common_loss = unique_loss = connected_zero(a_ND, b_ND)
    if len(a_ND) < 2:
        return common_loss, unique_loss
    if split > 0:
        diagonal, total = cross_correlation_terms(a_ND[:, :split], b_ND[:, :split])
        common_loss = (1 - diagonal).square().sum() + off_diagonal * (
            total - diagonal.square().sum()
        )
    if split < a_ND.shape[1]:
        diagonal, total = cross_correlation_terms(a_ND[:, split:], b_ND[:, split:])
        unique_loss = diagonal.square().sum() + off_diagonal * (total - diagonal.square().sum())
    return common_loss, unique_loss
