"""Concepts that a table names: its columns with categories and, below each, the categories; and how
often they go together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from amodal.modalities.table import Table


class TableConcepts:
    """names: K concepts, "colour", "colour=red", …; places: column -> where its categories stand
    among them, in their order."""

    def __init__(self, table: Table):
        self.at = {c: table.columns.index(c) for c in table.columns if c in table.categories}
        self.names, self.places = [], {}
        for c in self.at:
            first = len(self.names) + 1
            self.names += [c, *(f"{c}={v}" for v in table.categories[c])]
            self.places[c] = list(range(first, len(self.names)))

    def said(self, cells_NC: Tensor) -> Tensor:
        """(N, K): of a column that is there 1 for itself and for one of its categories, 0 for the
        others; NaN for one that is not."""
        parts = []
        for c, places in self.places.items():
            code_N1 = cells_NC[:, self.at[c], None]
            own_NV = (code_N1 == torch.arange(len(places), device=code_N1.device)).to(code_N1.dtype)
            parts.append(
                torch.cat([torch.ones_like(code_N1), own_NV], 1).where(~code_N1.isnan(), torch.nan)
            )
        return torch.cat(parts, 1)

    def chances(self, cells: Iterable[Tensor]) -> Tensor:
        """(K, K) float64 P(a | b): of the records with b, and with anything said of a, the share
        that have a; NaN where there are none. cells: (N, C) at a time."""
        k = len(self.names)
        both, told = torch.zeros(k, k, dtype=torch.float64), torch.zeros(k, k, dtype=torch.float64)
        for cells_NC in cells:
            said_NK = self.said(cells_NC).double().cpu()
            has_NK = said_NK.nan_to_num()
            both, told = both + has_NK.T @ has_NK, told + (~said_NK.isnan()).double().T @ has_NK
        return torch.where(told > 0, both / told.clamp(min=1), torch.nan)
