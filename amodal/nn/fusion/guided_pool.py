"""What one field makes of another's tokens: their mean, weighed by how well each answers the first
one's vector. Zhao et al. 2023, arXiv:2309.03452 (cross-modality attention that weighs the features
of the field that is kept)."""

from __future__ import annotations

from torch import Tensor, nn

from amodal.core import Column, Tokens
from amodal.nn.pooling import segment_softmax


class GuidedPool(nn.Module):
    """One head. The tokens themselves are averaged, and not a map of them, so that the result is in
    the space of their plain mean, which it is as long as all weights are equal."""

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)

    def weights(self, bag: Tokens, guide: Column) -> Tensor:
        """(T,) of each token, 1 in all for each row that has a guide."""
        asked = self.query(guide.values)
        of_row = asked.new_zeros(bag.size, asked.shape[1]).index_copy(0, guide.rows, asked)
        score = (of_row[bag.row] * self.key(bag.x)).sum(1, keepdim=True) * bag.x.shape[1] ** -0.5
        return segment_softmax(score, bag.row, bag.size).squeeze(1)

    def forward(self, bag: Tokens, guide: Column) -> Column:
        """(N, D) of the rows that have tokens (T, D) and a guide (M, D)."""
        mixed = bag.x * self.weights(bag, guide).unsqueeze(1)
        pooled = mixed.new_zeros(bag.size, mixed.shape[1]).index_add(0, bag.row, mixed)
        rows = ((bag.lengths() > 0) & guide.present(bag.size)).nonzero().squeeze(1)
        return Column(pooled[rows], rows)
