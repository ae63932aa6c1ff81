"""Modality-aware contrastive loss: a query retrieves its modality among those of all records.

Wan et al. 2025, arXiv:2506.06144 (CLaMR).
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from amodal.objectives.common import check_positive, connected_zero, full_precision


@full_precision
def modality_choice(
    score_NNF: Tensor, *, temperature: float | Tensor, modality_N: Tensor | None = None
) -> Tensor:
    """Classification of a query over all records j and modalities f of the batch.

        L = mean_i -log softmax_{j,f}(score_ijf / temperature)_{i, modality_i}

    With F = 1 this is InfoNCE from queries to records.

    Args:
        score_NNF: score of query i and modality f of record j, -inf where the record lacks it.
        temperature: a number, or a scalar tensor that gets a gradient.
        modality_N: int64, the modality of each query. -1 or None: the one of its own record that
            scores highest.

    Returns:
        A scalar. Queries of a modality that their record lacks do not count. Fewer than two
        queries: 0, connected to the finite scores.

    Raises:
        ValueError: another shape, or `temperature` is not above 0.
    """
    check_positive("temperature", temperature)
    if score_NNF.dim() != 3 or score_NNF.shape[0] != score_NNF.shape[1]:
        raise ValueError(f"modality_choice needs (N, N, F) scores, got {tuple(score_NNF.shape)}")
    n, _, f = score_NNF.shape
    # filled again behind the division: 0 * inf would spoil the temperature's gradient
    absent = score_NNF == -torch.inf
    finite = score_NNF.masked_fill(absent, 0.0)
    row = torch.arange(n, device=score_NNF.device)
    best_modality = score_NNF[row, row].detach().argmax(1) if n else row
    modality = (
        best_modality
        if modality_N is None
        else torch.where(modality_N < 0, best_modality, modality_N)
    )
    valid = (~absent[row, row, modality]).nonzero().squeeze(1)
    if n < 2 or not len(valid):
        return connected_zero(finite, temperature)
    logits = (finite / temperature).masked_fill(absent, -torch.inf)
    return cross_entropy(logits.flatten(1)[valid], (row * f + modality)[valid])
