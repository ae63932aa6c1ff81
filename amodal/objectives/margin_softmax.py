"""Classes told by cosine with a margin: a row must be nearer to its class by so much than it would
need to be.

CosFace: Wang et al., CVPR 2018, arXiv:1801.09414, eq. 4; AM-Softmax: Wang et al. 2018,
arXiv:1801.05599, eq. 6.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_positive, connected_zero, full_precision


@full_precision
def margin_softmax(
    z_ND: Tensor,
    prototype_CD: Tensor,
    class_N: Tensor,
    *,
    scale: float = 64.0,
    margin: float = 0.35,
) -> Tensor:
    """Mean over rows of -log softmax over classes c of scale (cos(z_i, w_c) - margin [c =
    class_i]), at the row's class.

    z_ND:     embeddings, prototype_CD: one vector for each class, both of any length (cosine is
              taken here).
    class_N:  (N,) int64 in [0, C).
    scale:    what cosines are multiplied by; margin: that the row's own cosine is short of.
              CosFace's numbers for faces.

    No rows give a connected 0. Raises ValueError for shapes that do not fit and for a scale that is
    not above 0.
    """
    check_positive("scale", scale)
    if (
        z_ND.dim() != 2
        or prototype_CD.shape[1:] != z_ND.shape[1:]
        or class_N.shape != z_ND.shape[:1]
    ):
        raise ValueError(
            f"margin_softmax needs (N, D) vectors, (C, D) prototypes and (N,) classes, got {tuple(z_ND.shape)}, "
            f"{tuple(prototype_CD.shape)} and {tuple(class_N.shape)}."
        )
    if not len(z_ND):
        return connected_zero(z_ND, prototype_CD)
    cosine_NC = F.normalize(z_ND, dim=1) @ F.normalize(prototype_CD, dim=1).T
    own = torch.zeros_like(cosine_NC).scatter(1, class_N.unsqueeze(1), margin)
    return F.cross_entropy(scale * (cosine_NC - own), class_N)
