"""Late fusion in which a field that a row lacks is predicted from those that it has: Kim and Kim
2024, arXiv:2407.12616, for any number of fields."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core import Column, Embeddings

Predicted = dict[tuple[str, str], Column]
"""(field, other) -> (N, D): of the rows that have the field, what it says the other's vector is."""


class FilledFusion(nn.Module):
    """A perceptron from each field to each other, and a linear classifier of the vectors of all
    fields side by side.

    width: D, of the vectors; states: of what predictors read; hidden: their hidden layer.
    """

    def __init__(self, fields: Sequence[str], width: int, states: int, hidden: int, classes: int):
        super().__init__()
        self.fields, self.width = tuple(fields), width
        self.predictors = nn.ModuleDict(
            {
                f"{a}>{b}": nn.Sequential(
                    nn.Linear(states, hidden), nn.GELU(), nn.Linear(hidden, width)
                )
                for a, b in itertools.permutations(fields, 2)
            }
        )
        self.head = nn.Linear(width * len(fields), classes)

    def predict(self, states: Embeddings) -> Predicted:
        """states: what predictors read, of the fields that there are."""
        ways = (tuple(way.split(">")) for way in self.predictors)
        read = {(a, b): states[a] for a, b in ways if a in states}
        return {
            (a, b): Column(self.predictors[f"{a}>{b}"](c.values), c.rows)
            for (a, b), c in read.items()
        }

    def forward(self, z: Embeddings, predicted: Predicted, kept: dict[str, Tensor]) -> Column:
        """(N, classes) logits of the rows that keep any field. kept: field -> (B,) bool, a part of
        the rows that have it in `z`."""
        rows = torch.stack(list(kept.values())).any(0).nonzero().squeeze(1)
        tables = []
        for field in self.fields:
            table = self.lacking(field, z, predicted, kept)
            if field in kept:
                own = z[field].at(kept[field][z[field].rows])
                table = table.index_copy(0, own.rows, own.values.to(table.dtype))
            tables.append(table)
        return Column(self.head(torch.cat(tables, 1)[rows]), rows)

    def lacking(
        self, field: str, z: Embeddings, predicted: Predicted, kept: dict[str, Tensor]
    ) -> Tensor:
        """(B, D) what stands for `field` in rows that lack it: the mean of what those that they
        keep predict."""
        total = self.head.weight.new_zeros(z.size, self.width)
        count = total.new_zeros(z.size, 1)
        for (a, b), guess in predicted.items():
            if b == field:
                weight = kept[a][guess.rows].to(total.dtype)[:, None]
                total = total.index_add(0, guess.rows, guess.values.to(total.dtype) * weight)
                count = count.index_add(0, guess.rows, weight)
        return total / count.clamp(min=1)
