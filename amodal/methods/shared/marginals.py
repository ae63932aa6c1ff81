"""The marginal distributions of the columns of a table, and rows corrupted by them.

Bahri et al., SCARF, ICLR 2022, arXiv:2106.15147, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import name_code
from amodal.masking.hashing import uniform


class Marginals(nn.Module):
    """The empirical marginal distribution of each column.

    Args:
        columns: C.
        size: Values that are kept of each column, at most.
    """

    value: Tensor
    count: Tensor

    def __init__(self, columns: int, size: int):
        super().__init__()
        self.register_buffer("value", torch.zeros(size, columns))
        self.register_buffer("count", torch.zeros(columns, dtype=torch.int64))

    def fit(self, x_NC: Tensor) -> None:
        """Keep the values that are present, or evenly spaced ones of them in their order."""
        size = len(self.value)
        self.value.zero_()
        for c, column in enumerate(x_NC.double().unbind(1)):
            sorted_n = column[~column.isnan()].sort().values
            if len(sorted_n) > size:
                middle = (torch.arange(size, dtype=torch.float64) + 0.5) * (len(sorted_n) / size)
                sorted_n = sorted_n[middle.long()]
            self.value[: len(sorted_n), c] = sorted_n.to(self.value)
            self.count[c] = len(sorted_n)

    def forward(self, uniform_NC: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) -> values of the columns (N, C); 0 of a column without."""
        index = (uniform_NC.double() * self.count).long()
        return self.value.gather(0, index)

    def corrupt(self, x_NC: Tensor, seed_N: Tensor, *, share: float, name: str) -> Tensor:
        """Draw some cells of each row anew.

        Args:
            x_NC: Rows, NaN where a cell is missing.
            seed_N: Of the rows.
            share: Of the cells that a row has, rounded down.
            name: Of the table, so that two of them draw differently.

        Returns:
            (N, C), with NaN where `x_NC` has it.
        """
        code, seed_N1 = name_code(name), seed_N.unsqueeze(1)
        cell_C = torch.arange(x_NC.shape[1], device=x_NC.device)
        present = ~x_NC.isnan()
        order = torch.where(present, uniform(seed_N1, code, 0, cell_C), 2.0)  # missing ones last
        rank = order.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        # nudged before rounding, so that .29 of 100 cells are 29 and not 28
        number_N1 = (present.sum(1, keepdim=True).double() * share + 1e-9).floor()
        drawn = self(uniform(seed_N1, code, 1, cell_C)).to(x_NC.dtype)
        # a column that no training record has a value in has nothing to draw from
        return torch.where(present & (rank < number_N1) & (self.count > 0), drawn, x_NC)
