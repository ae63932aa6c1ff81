"""Concepts of a table (its columns with categories and, below each, the categories) and how often
they occur together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from amodal.modalities.table import Table


class TableConcepts:
    """The concepts of a table.

    Args:
        table: Has columns with categories.

    Attributes:
        names: K concepts, "colour", "colour=red", ….
        category_index: column -> the indices of its categories in `names`, in their order.
    """

    def __init__(self, table: Table):
        self._columns = {c: table.columns.index(c) for c in table.columns if c in table.categories}
        self.names: list[str] = []
        self.category_index: dict[str, list[int]] = {}
        for c in self._columns:
            first = len(self.names) + 1
            self.names += [c, *(f"{c}={v}" for v in table.categories[c])]
            self.category_index[c] = list(range(first, len(self.names)))

    def annotations(self, cells_NC: Tensor) -> Tensor:
        """The concepts of rows.

        Args:
            cells_NC: Values of the table's C columns, NaN where missing.

        Returns:
            (N, K): 1 for a column that the row has and for its category, 0 for the column's other
            categories, NaN for a column that the row lacks.
        """
        parts = []
        for c, index in self.category_index.items():
            code_N1 = cells_NC[:, self._columns[c], None]
            hot_NV = (code_N1 == torch.arange(len(index), device=code_N1.device)).to(code_N1.dtype)
            parts.append(
                torch.cat([torch.ones_like(code_N1), hot_NV], 1).where(~code_N1.isnan(), torch.nan)
            )
        return torch.cat(parts, 1)

    def conditional_probabilities(self, cells: Iterable[Tensor]) -> Tensor:
        """P(a | b) of every two concepts.

        Args:
            cells: (N, C) at a time.

        Returns:
            (K, K) float64: of the records with b whose column of a is known, the share that have
            a; NaN where there are none.
        """
        k = len(self.names)
        joint, known = (
            torch.zeros(k, k, dtype=torch.float64),
            torch.zeros(k, k, dtype=torch.float64),
        )
        for cells_NC in cells:
            label_NK = self.annotations(cells_NC).double().cpu()
            has_NK = label_NK.nan_to_num()
            joint = joint + has_NK.T @ has_NK
            known = known + (~label_NK.isnan()).double().T @ has_NK
        return torch.where(known > 0, joint / known.clamp(min=1), torch.nan)
