"""Balanced InfoNCE: the similarity matrix is scaled to uniform marginals for k steps before pairs are scored.
Liu et al., NeurIPS 2024, arXiv:2408.15065, section 4 (CLIP is k = 1, their doubly centred loss k = 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.log_sum_exp import pair_log_sum_exp, row_log_sum_exp


@full_precision
def balanced_info_nce(
    a_ND: Tensor, b_ND: Tensor, *, temperature: float | Tensor, steps: int = 2, tile: int = 1024
) -> Tensor:
    """-mean_i of log Q_ii, averaged over the Q whose first step scales rows and the one whose first step scales columns.

    Q starts from exp(cos(a_i, b_j) / temperature); each step of Sinkhorn's alternation divides rows, or columns, by their sums.

    a_ND, b_ND:   embeddings of the same N rows, of any length (cosine is taken here).
    temperature:  a number, or a scalar tensor that gets a gradient.
    steps:        0 divides by the sum of the whole matrix (jointly centred), 1 is symmetric InfoNCE, 2 is doubly centred.
    tile:         side of the blocks of the similarity matrix; changes memory and speed, not the result.

    Memory is linear in N: what the alternation needs of a step are N row factors or N column factors, and adding a factor to every
    logit of a row is one more coordinate of a product. One row or none gives a connected 0. First derivatives only. Raises
    ValueError for unequal shapes, a temperature that is not above 0 and negative steps.
    """
    check_pair("balanced_info_nce", a_ND, b_ND)
    check_positive("temperature", temperature)
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, got {steps}.")
    if len(a_ND) < 2:
        return connected_zero(a_ND, b_ND, temperature)
    a, b = F.normalize(a_ND, dim=1) / temperature, F.normalize(b_ND, dim=1)
    positive = (a * b).sum(1).mean()
    if steps == 0:
        return row_log_sum_exp(a, b, tile=tile).logsumexp(0) - positive
    rows, columns = pair_log_sum_exp(a, b, tile=tile)
    by_rows, by_columns = _factors(a, b, -rows, steps, tile), _factors(b, a, -columns, steps, tile)
    return -positive - (by_rows + by_columns).mean() / 2


def _factors(a: Tensor, b: Tensor, rows: Tensor, steps: int, tile: int) -> Tensor:
    """The log factors of row i and column i added up, (N,), after `steps` steps of which the first gave `rows`."""
    one = torch.ones_like(rows)
    columns = torch.zeros_like(rows)
    for step in range(1, steps):
        if step % 2:
            columns = -row_log_sum_exp(torch.column_stack([b, one]), torch.column_stack([a, rows]), tile=tile)
        else:
            rows = -row_log_sum_exp(torch.column_stack([a, one]), torch.column_stack([b, columns]), tile=tile)
    return rows + columns
