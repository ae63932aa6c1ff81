"""Each predicted token finds its target among the targets of its own record.

Galileo, Tseng et al. 2025, arXiv:2502.09356 (PatchDisc), after Latent MIM, Wei et al. 2024,
arXiv:2407.15837.
"""

from bisect import bisect_right
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from amodal.core.host import host_copy
from amodal.objectives.common import check_pair, check_positive, full_precision
from amodal.objectives.packed import row_index


@full_precision
def patch_disc(
    prediction_TD: Tensor,
    target_TD: Tensor,
    lengths_N: Tensor,
    *,
    temperature: float = 0.1,
    tile: int = 256,
) -> Tensor:
    """The loss of each token.

        L_i = -2 tau log( e^{cos(p_i, t_i) / tau} / sum_j e^{cos(p_i, t_j) / tau} )

    where j runs over the tokens of the same record.

    Args:
        prediction_TD: predictions of the tokens of N records, end to end.
        target_TD: their targets.
        lengths_N: tokens of each record; zero is allowed.
        temperature: tau.
        tile: tokens at a time; changes memory, not the result.

    Returns:
        (T,)

    Raises:
        ValueError: the shapes do not fit, or a number is not above 0.
    """
    check_pair("patch_disc", prediction_TD, target_TD)
    check_positive("temperature", temperature)
    check_positive("tile", tile)
    count, lengths = len(prediction_TD), host_copy(lengths_N).tolist()
    if sum(lengths) != count:
        raise ValueError(f"patch_disc: {count} tokens, and records of {sum(lengths)} in all.")
    unit_TD, aim_TD = F.normalize(prediction_TD, dim=1), F.normalize(target_TD, dim=1)
    owner_T, ends = row_index(lengths_N), list(accumulate(lengths))

    def losses(start: int, stop: int, unit_TD: Tensor, aim_TD: Tensor) -> Tensor:
        # the records of these tokens: they lie beside each other, so most pairs of a batch are not
        # even computed
        first, last = bisect_right(ends, start), bisect_right(ends, stop - 1)
        low, high = ends[first] - lengths[first], ends[last]
        scores = unit_TD[start:stop] @ aim_TD[low:high].T / temperature
        others = owner_T[start:stop, None] != owner_T[low:high]
        scores = scores.masked_fill(others, -torch.inf)
        own_t = torch.arange(start - low, stop - low, device=scores.device)
        return F.cross_entropy(scores, own_t, reduction="none")

    parts = []
    for start in range(0, count, tile):
        piece = start, min(start + tile, count), unit_TD, aim_TD
        # computed once more in the backward pass, so that memory is that of one tile
        parts.append(checkpoint(losses, *piece, use_reentrant=False, preserve_rng_state=False))
    # without a token the predictions stay part of the graph
    return 2 * temperature * torch.cat([*parts, unit_TD[:0, 0]])
