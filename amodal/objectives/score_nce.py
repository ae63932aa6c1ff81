"""InfoNCE over any pairwise score, without holding the N x N scores.

van den Oord et al. 2018, arXiv:1807.03748, eq. 4, in both directions.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from amodal.objectives.common import check_positive, full_precision
from amodal.objectives.tiles import by_rows


@full_precision
def score_nce(
    scores: Callable[..., Tensor], *rows: Tensor, temperature: float | Tensor, tile: int = 256
) -> Tensor:
    """InfoNCE over scores S (N, N), the mean of both directions.

        L = mean_i -log softmax_j(S_ij / temperature)_{j=i}

    Args:
        scores: (t, ...) tiles of `rows` -> (t, N) scores of those t rows with all N partners.
            Partner i belongs to row i. Tensors that it closes over get gradients too. It runs
            twice: in the forward pass and again in the backward pass.
        rows: tensors of length N.
        temperature: a number, or a scalar tensor that gets a gradient.
        tile: rows at a time; changes memory and speed, not the result.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: `temperature` is not above 0.
    """
    check_positive("temperature", temperature)
    n = len(rows[0])
    if n < 2:
        return (scores(*rows) / temperature).sum() * 0

    def tile_terms(index_t: Tensor, *tiles: Tensor) -> Tensor:
        logits = scores(*tiles) / temperature
        positive = logits.gather(1, index_t[:, None]).squeeze(1)
        # (t + t + N,): `by_rows` joins one tensor a tile, so three are packed and cut apart below;
        # the columns' sums are over these t rows only, and merged there
        return torch.cat([positive, logits.logsumexp(1), logits.logsumexp(0)])

    index = torch.arange(n, device=rows[0].device)
    packed = by_rows(tile_terms, index, *rows, tile=tile)
    sizes = [len(part) for part in index.split(tile)]
    positive, by_row, by_column = zip(
        *(part.split([t, t, n]) for t, part in zip(sizes, packed.split([2 * t + n for t in sizes])))
    )
    columns = torch.stack(by_column).logsumexp(0)
    return (torch.cat(by_row).mean() + columns.mean()) / 2 - torch.cat(positive).mean()
