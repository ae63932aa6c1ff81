"""The hierarchical contrastive loss of TS2Vec: steps of time are compared, at every time scale.

Yue et al. 2022, arXiv:2106.10466, eq. 1 to 3 and algorithm 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.core import AmodalError
from amodal.objectives.common import connected_zero, full_precision


@full_precision
def hierarchical_contrast(
    a_NLD: Tensor, b_NLD: Tensor, lengths_N: Tensor, *, instance_weight: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Two views of the same steps of N series.

    At each level, each step of a series is classified among the same steps of all series in both
    views (instance), and among all steps of its series in both views (temporal), by products and
    not by cosines. Then every two steps become one by their maximum, until one is left. A series
    that is one step long stays so while others are still halved. The terms of a level are means
    over all steps that there are, and the result is the mean over levels.

    Args:
        a_NLD, b_NLD: vectors of steps; what lies past the end of a series does not count.
        lengths_N: (N,) int64, steps of each series, at least 1.
        instance_weight: alpha, of the instance term; that of the temporal term is 1 - alpha.

    Returns:
        The instance and the temporal part, two scalars whose sum is the loss.

    Raises:
        AmodalError: for an `instance_weight` outside 0 … 1.
    """
    if not 0 <= instance_weight <= 1:
        raise AmodalError(f"instance_weight is a share, from 0 to 1, not {instance_weight}")
    instance = temporal = connected_zero(a_NLD, b_NLD)
    if not a_NLD.numel():
        return instance, temporal
    levels, lengths = 0, lengths_N.to(a_NLD.device)
    while True:
        levels += 1
        inside = torch.arange(a_NLD.shape[1], device=lengths.device) < lengths.unsqueeze(1)
        # products of what lies past the end must be finite, though they do not count
        a_NLD, b_NLD = (z.masked_fill(~inside.unsqueeze(2), 0) for z in (a_NLD, b_NLD))
        instance = instance + _contrast(a_NLD.transpose(0, 1), b_NLD.transpose(0, 1), inside.T)
        if a_NLD.shape[1] == 1:
            break
        temporal = temporal + _contrast(a_NLD, b_NLD, inside)
        a_NLD, b_NLD = (_halve(z, inside) for z in (a_NLD, b_NLD))
        lengths = (lengths // 2).clamp(min=1)
    return instance * instance_weight / levels, temporal * (1 - instance_weight) / levels


def _contrast(a_GMD: Tensor, b_GMD: Tensor, inside_GM: Tensor) -> Tensor:
    """Each entry finds its other view among the 2 M - 1 others of its group; (), a mean.

    Groups of fewer than two entries have nothing to tell apart, and do not count.
    """
    z = torch.cat([a_GMD, b_GMD], 1)
    both = torch.cat([inside_GM, inside_GM], 1)
    itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    logits = z @ z.transpose(1, 2)
    logits = logits.masked_fill(itself | ~both.unsqueeze(1), torch.finfo(z.dtype).min)
    positive = (a_GMD * b_GMD).sum(2)
    loss = logits.logsumexp(2) - torch.cat([positive, positive], 1)
    counts = both & (inside_GM.sum(1, keepdim=True) > 1)
    return torch.where(counts, loss, 0).sum() / counts.sum().clamp(min=1)


def _halve(z_NLD: Tensor, inside_NL: Tensor) -> Tensor:
    """The maximum of every two steps (N, L // 2, D); a last odd one is left out."""
    # beside the only step of a series there is none, which must not win
    low = z_NLD.masked_fill(~inside_NL.unsqueeze(2), torch.finfo(z_NLD.dtype).min)
    return F.max_pool1d(low.transpose(1, 2), 2).transpose(1, 2)
