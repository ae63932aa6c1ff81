"""InfoNCE over any score of two things, not only cosines of two vectors, without holding the N x N
scores.

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
    """Mean over i of -log softmax(S_ij / temperature)_{j=i}, averaged over the two directions.

    scores:  (t, ...) tiles of `rows` -> (t, N) scores of those t against all N partners, of which
             number i belongs to row i.
             What it closes over gets its gradient too. It is run twice, forward and again backward.
    rows:    tensors of length N.
    tile:    rows at once; changes memory and speed, not the result.

    With one row or none: 0, connected to the inputs.
    """
    check_positive("temperature", temperature)
    n = len(rows[0])
    if n < 2:
        return (scores(*rows) / temperature).sum() * 0

    def piece(number_t, *tiles):
        logits = scores(*tiles) / temperature
        own = logits.gather(1, number_t[:, None]).squeeze(1)
        return torch.cat([own, logits.logsumexp(1), logits.logsumexp(0)])

    number = torch.arange(n, device=rows[0].device)
    packed = by_rows(piece, number, *rows, tile=tile)
    sizes = [len(part) for part in number.split(tile)]
    own, by_row, by_column = zip(
        *(part.split([t, t, n]) for t, part in zip(sizes, packed.split([2 * t + n for t in sizes])))
    )
    columns = torch.stack(by_column).logsumexp(0)
    return (torch.cat(by_row).mean() + columns.mean()) / 2 - torch.cat(own).mean()
