"""Pooling of one field's tokens, guided by the vector of another field.

Zhao et al. 2023, arXiv:2309.03452 (cross-modality attention, weighing the features of the field
that is there at test time).
"""

from __future__ import annotations

from torch import Tensor, nn

from amodal.core import Column, Tokens
from amodal.nn.pooling import segment_softmax


class GuidedPool(nn.Module):
    """Attention with one head, whose query is another field's vector.

    The tokens themselves are averaged, and not a map of them. So the result is in the space of
    their mean, and is the mean as long as all weights are equal.

    Args:
        width: D.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)

    def weights(self, tokens: Tokens, guide: Column) -> Tensor:
        """(T,) the weight of each token; they sum to 1 in each row that has a guide."""
        query_ND = self.query(guide.flat)
        # (B, D), zero for rows without a guide, whose weights are then equal; `forward` leaves them
        # out
        of_row = query_ND.new_zeros(tokens.size, query_ND.shape[1]).index_copy(
            0, guide.rows, query_ND
        )
        score = (of_row[tokens.row] * self.key(tokens.x)).sum(1, keepdim=True) * tokens.x.shape[
            1
        ] ** -0.5
        return segment_softmax(score, tokens.row, tokens.size).squeeze(1)

    def forward(self, tokens: Tokens, guide: Column) -> Column:
        """Tokens (T, D) and guides (M, D) -> (N, D), of the rows that have both."""
        mixed = tokens.x * self.weights(tokens, guide).unsqueeze(1)
        pooled = mixed.new_zeros(tokens.size, mixed.shape[1]).index_add(0, tokens.row, mixed)
        rows = ((tokens.lengths() > 0) & guide.present(tokens.size)).nonzero().squeeze(1)
        return Column(pooled[rows], rows)
