"""Late fusion in which the vector of a missing field is predicted from the others.

Kim and Kim 2024, arXiv:2407.12616, for any number of fields.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core import Column, Embeddings

Predicted = dict[tuple[str, str], Column]
"""(field, other) -> (N, D): of the rows that have the field, what it says the other's vector is."""


class FilledFusion(nn.Module):
    """A perceptron from each field to each other, and a linear classifier of all fields' vectors.

    Args:
        fields: The fields.
        width: D of the vectors.
        states: Width of the inputs of the perceptrons.
        hidden: Of the perceptrons.
        classes: Of the classifier.
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
        """Predict the vectors of each field from each other.

        Args:
            states: Inputs of the perceptrons, of the fields that there are.
        """
        pairs = (name.split(">") for name in self.predictors)
        inputs = {(a, b): states[a] for a, b in pairs if a in states}
        return {
            (a, b): Column(self.predictors[f"{a}>{b}"](c.flat), c.rows)
            for (a, b), c in inputs.items()
        }

    def forward(self, z: Embeddings, predicted: Predicted, visible: dict[str, Tensor]) -> Column:
        """Logits of the rows with any visible field.

        Args:
            z: Vectors (N, D) of the fields.
            predicted: Of `predict`.
            visible: Field -> (B,) bool, some of the rows that have it in `z`.

        Returns:
            (N, classes).
        """
        rows = torch.stack(list(visible.values())).any(0).nonzero().squeeze(1)
        tables = []
        for field in self.fields:
            table = self.lacking(field, z, predicted, visible)
            if field in visible:
                column = z[field].at(visible[field][z[field].rows])
                table = table.index_copy(0, column.rows, column.flat.to(table.dtype))
            tables.append(table)
        return Column(self.head(torch.cat(tables, 1)[rows]), rows)

    def lacking(
        self, field: str, z: Embeddings, predicted: Predicted, visible: dict[str, Tensor]
    ) -> Tensor:
        """(B, D) what replaces a missing field: the mean of what the visible ones predict."""
        total = self.head.weight.new_zeros(z.size, self.width)
        count = total.new_zeros(z.size, 1)
        for (a, b), guess in predicted.items():
            if b == field:
                weight = visible[a][guess.rows].to(total.dtype)[:, None]
                total = total.index_add(0, guess.rows, guess.flat.to(total.dtype) * weight)
                count = count.index_add(0, guess.rows, weight)
        # a row of which no field is visible has no prediction: zeros, and it is left out by
        # `forward`
        return total / count.clamp(min=1)
