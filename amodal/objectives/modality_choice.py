"""Contrast of records and of their modalities: a query retrieves its record, by the right modality.

Wan et al. 2025, arXiv:2506.06144 (CLaMR), equations 2, 4 and 5.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from amodal.objectives.common import check_positive, connected_zero, full_precision


@full_precision
def modality_choice(
    score_NN: Tensor,
    score_NNF: Tensor,
    *,
    modality_N: Tensor,
    temperature: float | Tensor,
    modality_negatives: bool = False,
) -> Tensor:
    """InfoNCE from queries to records, where a query may be about one modality.

        L = mean_i -log exp(p_i / t) / (exp(p_i / t) + sum_{n in N_i} exp(n / t))

    p_i is score_iif of the query's modality f, or score_ii where that is not known (equation 4; 2
    where none is). N_i are score_ij of all other records j, and with `modality_negatives`, for
    queries whose modality is known, score_ijf of every modality of every record but p_i (5).

    Args:
        score_NN: of query i and record j.
        score_NNF: of query i and modality f of record j, -inf where the record lacks it.
        modality_N: int64, the modality of each query. -1: not known, as is one that the query's own
            record lacks.
        temperature: a number, or a scalar tensor that gets a gradient.
        modality_negatives: as above.

    Returns:
        A scalar. Fewer than two queries: 0, connected to the finite scores.

    Raises:
        ValueError: another shape, or `temperature` is not above 0.
    """
    check_positive("temperature", temperature)
    n = len(score_NN)
    if score_NNF.dim() != 3 or score_NN.shape != (n, n) or score_NNF.shape[:2] != (n, n):
        raise ValueError(
            "modality_choice needs scores (N, N) and (N, N, F), got "
            f"{tuple(score_NN.shape)} and {tuple(score_NNF.shape)}"
        )
    # filled again behind the division: 0 * inf would spoil the temperature's gradient
    absent = score_NNF == -torch.inf
    finite = score_NNF.masked_fill(absent, 0.0)
    if n < 2:
        return connected_zero(score_NN, finite, temperature)
    row = torch.arange(n, device=score_NN.device)
    positive = row, row, modality_N  # -1 is the last one, which is not read
    known = (modality_N >= 0) & ~absent[positive]
    own = torch.where(known, finite[positive], score_NN.diagonal())
    logits = torch.diagonal_scatter(score_NN, own) / temperature
    if modality_negatives:
        hidden = absent | ~known[:, None, None]
        hidden[positive] = True
        others = (finite / temperature).masked_fill(hidden, -torch.inf)
        logits = torch.cat([logits, others.flatten(1)], 1)
    return cross_entropy(logits, row)
