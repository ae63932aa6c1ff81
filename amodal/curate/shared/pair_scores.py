"""Scores of pairs of rows under a contrastive loss, and draws of rows by them, for `jest`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.masking.hashing import uniform


class PairLoss(Protocol):
    """Losses of one model on the pairs of n candidates.

    Attributes:
        diagonal: (n,) loss of each row's own pair.
    """

    diagonal: Tensor

    def add_drawn(self, new: Tensor) -> Tensor:
        """Add rows to those drawn.

        Args:
            new: int64 row numbers.

        Returns:
            (n,) loss of each row as a negative of all rows drawn so far, in both directions.
        """


class Sigmoid:
    """`PairLoss` of SigLIP, softplus(-y_ij (scale cos(a_i, b_j) + bias)).

    Args:
        a_nD, b_nD: embeddings of the two fields of the same n rows; normalised here.
        scale: of the cosines.
        bias: of the logits.
    """

    def __init__(self, a_nD: Tensor, b_nD: Tensor, scale: float, bias: float):
        self.a, self.b = F.normalize(a_nD.float(), dim=1) * scale, F.normalize(b_nD.float(), dim=1)
        self.bias = bias
        self.diagonal = F.softplus(-(self.a * self.b).sum(1) - bias)
        self.total = torch.zeros_like(self.diagonal)

    def add_drawn(self, new: Tensor) -> Tensor:
        forward, backward = self.a @ self.b[new].T, self.b @ self.a[new].T
        losses = F.softplus(forward + self.bias).sum(1) + F.softplus(backward + self.bias).sum(1)
        self.total += losses
        return self.total


class Softmax:
    """`PairLoss` of the symmetric InfoNCE, whose normaliser runs over the rows drawn so far.

    The diagonal is -scale cos(a_i, b_i). The rest is the mean of log sum_k exp(scale cos(a_i, b_k))
    and of the other direction.

    Args:
        a_nD, b_nD: embeddings of the two fields of the same n rows; normalised here.
        scale: of the cosines.
        bias: not used.
    """

    def __init__(self, a_nD: Tensor, b_nD: Tensor, scale: float, bias: float = 0.0):
        self.a, self.b = F.normalize(a_nD.float(), dim=1) * scale, F.normalize(b_nD.float(), dim=1)
        self.diagonal = -(self.a * self.b).sum(1)
        self.forward = self.backward = torch.full_like(self.diagonal, -torch.inf)

    def add_drawn(self, new: Tensor) -> Tensor:
        if len(new):
            self.forward = torch.logaddexp(self.forward, (self.a @ self.b[new].T).logsumexp(1))
            self.backward = torch.logaddexp(self.backward, (self.b @ self.a[new].T).logsumexp(1))
        nothing_drawn = self.forward.isinf()
        return ((self.forward + self.backward) / 2).masked_fill(nothing_drawn, 0.0)


MakePairLoss = Callable[[Tensor, Tensor, float, float], PairLoss]
"""(a_nD, b_nD, scale, bias) -> losses."""

LOSSES: dict[str, MakePairLoss] = {
    "sigmoid": Sigmoid,
    "softmax": Softmax,
}


class PairScore:
    """Scores of B candidates by one pair of fields, 0 for rows that lack one of the two.

    Args:
        rows: (n,) int64, the rows that have both fields.
        size: B.
        models: weight and losses of each model.
    """

    def __init__(self, rows: Tensor, size: int, models: Sequence[tuple[float, PairLoss]]):
        self.rows, self.models = rows, models
        self.index = torch.full((size,), -1, dtype=torch.int64, device=rows.device)
        self.index[rows] = torch.arange(len(rows), device=rows.device)

    def diagonal(self) -> Tensor:
        """(B,) score of each row's own pair."""
        return self._spread([weight * m.diagonal for weight, m in self.models])

    def add_drawn(self, new: Tensor) -> Tensor:
        """(B,) score of each row with all rows drawn so far, after `new` ones."""
        index = self.index[new]
        index = index[index >= 0]
        return self._spread([weight * m.add_drawn(index) for weight, m in self.models])

    def _spread(self, terms: Sequence[Tensor]) -> Tensor:
        score_n = sum(terms[1:], terms[0])
        return score_n.new_zeros(len(self.index)).index_copy(0, self.rows, score_n)


def draw(
    diagonal_B: Tensor,
    add_drawn: Callable[[Tensor], Tensor] | None,
    count: int,
    seeds_B: Tensor,
    chunks: int = 16,
) -> Tensor:
    """Draw rows without replacement, in `chunks` (algorithm 1).

    Args:
        diagonal_B: logits of the first chunk.
        add_drawn: newly drawn rows -> what all drawn rows add to the logits. None draws all rows
            at once by `diagonal_B`.
        count: number of rows.
        seeds_B: int64, the only source of randomness.
        chunks: number of draws.

    Returns:
        (count,) int64, ascending.
    """
    parts = torch.arange(count).tensor_split(chunks if add_drawn else 1)
    sizes = [len(part) for part in parts if len(part)]
    logits = diagonal_B
    drawn = torch.zeros(len(diagonal_B), dtype=torch.bool, device=diagonal_B.device)
    for number, size in enumerate(sizes):
        # 2^-25 keeps the logarithm of a uniform number of 0 finite
        gumbel = -torch.log(-torch.log(uniform(seeds_B, number).double() + 2.0**-25))
        new = (logits.double() + gumbel).masked_fill(drawn, -torch.inf).topk(size).indices
        drawn[new] = True
        if add_drawn and number + 1 < len(sizes):
            logits = diagonal_B + add_drawn(new)
    return drawn.nonzero().squeeze(1)
