"""Classification by cosine with an additive margin.

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
    """Softmax cross-entropy of cosines, the margin subtracted from that of the label y_i.

        L = mean_i -log softmax_c( scale (cos(z_i, w_c) - margin [c = y_i]) )_{c = y_i}

    Args:
        z_ND: embeddings; normalised here.
        prototype_CD: one vector w_c a class; normalised here.
        class_N: int64 labels in [0, C).
        scale: inverse temperature; the defaults are CosFace's for faces.
        margin: see above.

    Returns:
        A scalar. Without rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes do not fit, or `scale` is not above 0.
    """
    check_positive("scale", scale)
    if (
        z_ND.dim() != 2
        or prototype_CD.shape[1:] != z_ND.shape[1:]
        or class_N.shape != z_ND.shape[:1]
    ):
        raise ValueError(
            "margin_softmax needs (N, D) vectors, (C, D) prototypes and (N,) classes, got "
            f"{tuple(z_ND.shape)}, "
            f"{tuple(prototype_CD.shape)} and {tuple(class_N.shape)}."
        )
    if not len(z_ND):
        return connected_zero(z_ND, prototype_CD)
    cosine_NC = F.normalize(z_ND, dim=1) @ F.normalize(prototype_CD, dim=1).T
    margin_NC = torch.zeros_like(cosine_NC).scatter(1, class_N.unsqueeze(1), margin)
    return F.cross_entropy(scale * (cosine_NC - margin_NC), class_N)
