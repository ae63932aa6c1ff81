"""Predict one view's embedding from another's, by direction alone.

Grill et al. 2020 (BYOL), arXiv:2006.07733, eq. 2; Chen and He 2021 (SimSiam), arXiv:2011.10566, eq. 1 (this is 2 + 2 times theirs).
"""

import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, connected_zero, full_precision


@full_precision
def negative_cosine(prediction_ND: Tensor, target_ND: Tensor) -> Tensor:
    """Mean over rows of |p / |p| - v / |v||^2 = 2 - 2 cos(p, v), between 0 and 4; no gradient flows into the target.

    prediction_ND: what a predictor makes of one view; target_ND: the other view's embedding of the same N rows.
    No rows give a connected 0. Raises ValueError for unequal shapes.
    """
    check_pair("negative_cosine", prediction_ND, target_ND)
    if not len(prediction_ND):
        return connected_zero(prediction_ND)
    p, v = F.normalize(prediction_ND, dim=1), F.normalize(target_ND.detach(), dim=1)
    return 2 - 2 * (p.flatten() @ v.flatten()) / len(p)
