"""Cross-modal terms of DeCUR: some dimensions are common to two modalities, the rest unique.

Wang et al., ECCV 2024, arXiv:2309.05300, eq. 2-5. The terms inside each modality are `barlow_twins`
on its two views.
"""

from torch import Tensor

from amodal.objectives.barlow import cross_correlation_terms
from amodal.objectives.common import check_pair, connected_zero, full_precision


@full_precision
def decur(
    a_ND: Tensor, b_ND: Tensor, *, common: float, off_diagonal: float = 5.1e-3
) -> tuple[Tensor, Tensor]:
    """Common and unique loss between two modalities, C their cross-correlation.

        common: sum_i (1 - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2, over the first K dimensions
        unique: sum_i C_ii^2 + off_diagonal sum_{i != j} C_ij^2, over the rest

    Nothing is asked of C between the two blocks. First derivatives only.

    Args:
        a_ND, b_ND: projections of two modalities of the same N rows.
        common: share of common dimensions, K = round(common D).
        off_diagonal: weight of C_ij^2, i != j.

    Returns:
        Two scalars. A block without dimensions, and fewer than two rows: 0, connected to the
        inputs.

    Raises:
        ValueError: the shapes differ, or `common` is outside [0, 1].
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
