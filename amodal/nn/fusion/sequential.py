"""Sequential fusion: one module for each field updates a state, in turn.

Swamy et al., NeurIPS 2023, arXiv:2309.14118, section 3: s_0 is learned, s_k = W_k [h_k, s_(k-1)] +
b_k, where h_k is the vector of field k. A record that lacks a field keeps its state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core import Column, Embeddings
from amodal.masking.hashing import uniform


class SequentialFusion(nn.Module):
    """The modules.

    Args:
        fields: In the order in which they are read.
        width_in: D of their vectors.
        width: M of the state.
    """

    def __init__(self, fields: Sequence[str], width_in: int, width: int):
        super().__init__()
        self.start = nn.Parameter(torch.randn(width))
        self.steps = nn.ModuleDict({s: nn.Linear(width_in + width, width) for s in fields})

    def forward(
        self, z: Embeddings, order_BK: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Column]]:
        """Read the fields.

        Args:
            z: Vectors (n, D) of each field, some of which may be missing.
            order_BK: (B, K) int64, the numbers of the fields in the order in which each row reads
                them (see `random_orders`); None for that of `fields`.

        Returns:
            The last states (B, M), and of each field, for the rows that have it, (n, 2, M): the
            state before it and after it.
        """
        state = self.start.expand(z.size, -1)
        pairs: dict[str, list[Column]] = {s: [] for s in self.steps if s in z}
        # In turn t each module reads the rows that have its field in place t, so a row meets one
        # module a turn.
        for turn in range(len(self.steps) if order_BK is not None else 1):
            for number, (field, step) in enumerate(self.steps.items()):
                if field not in pairs:
                    continue
                column = (
                    z[field]
                    if order_BK is None
                    else z[field].at(order_BK[z[field].rows, turn] == number)
                )
                before = state[column.rows]
                after = step(torch.cat([column.flat, before], 1))
                pairs[field].append(Column(torch.stack([before, after], 1), column.rows))
                # not in place: the state before is part of the graph
                state = state.index_copy(0, column.rows, after.to(state.dtype))
        return state, {s: pairs[s][0] if order_BK is None else in_order(pairs[s]) for s in pairs}


def random_orders(seeds_B: Tensor, fields: int) -> Tensor:
    """(B, fields) int64: a random order of the fields for each row, a function of its seed."""
    return uniform(seeds_B.unsqueeze(1), torch.arange(fields, device=seeds_B.device)).argsort(1)


def in_order(parts: Sequence[Column]) -> Column:
    """Columns that share no row, as one."""
    rows, order = torch.cat([c.rows for c in parts]).sort()
    return Column(torch.cat([c.flat for c in parts])[order], rows)
