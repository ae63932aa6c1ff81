"""A query finds the source that it is about among the sources of all records of the batch.

Wan et al. 2025, arXiv:2506.06144 (CLaMR), the modality-aware contrastive loss.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from amodal.objectives.common import check_positive, connected_zero, full_precision


@full_precision
def modality_choice(
    score_NNF: Tensor, *, temperature: float | Tensor, about_N: Tensor | None = None
) -> Tensor:
    """Mean over queries i of -log softmax(score_ijf / temperature) over all records j and sources
    f, at (i, about_i).

    score_NNF: how well query i fits source f of record j, -inf where the record lacks it. With F =
    1, InfoNCE from queries to records.
    about_N:   int64, the source of each query, -1 where it is not known: the one of its own record
               that it fits best is taken then, as for
               all without `about_N`.

    A query about a source that its record lacks is left out. With one query or none: 0, connected
    to the scores that there are. Raises ValueError for another shape and a temperature that is not
    above 0.
    """
    check_positive("temperature", temperature)
    if score_NNF.dim() != 3 or score_NNF.shape[0] != score_NNF.shape[1]:
        raise ValueError(f"source_choice needs (N, N, F) scores, got {tuple(score_NNF.shape)}")
    n, _, f = score_NNF.shape
    gone = (
        score_NNF == -torch.inf
    )  # filled again behind the division: 0 * inf would spoil the temperature's gradient
    plain = score_NNF.masked_fill(gone, 0.0)
    own = torch.arange(n, device=score_NNF.device)
    best = score_NNF[own, own].detach().argmax(1) if n else own
    source = best if about_N is None else torch.where(about_N < 0, best, about_N)
    kept = (~gone[own, own, source]).nonzero().squeeze(1)
    if n < 2 or not len(kept):
        return connected_zero(plain, temperature)
    logits = (plain / temperature).masked_fill(gone, -torch.inf)
    return cross_entropy(logits.flatten(1)[kept], (own * f + source)[kept])
