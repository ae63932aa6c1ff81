"""A modality whose tokens are vectors of one size, from which its networks follow."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from amodal.core import Column, Tokens
from amodal.modalities.shared.base import Modality
from amodal.objectives.reconstruction import masked_mse


class VectorTokens(Modality):
    """Says the vectors of its tokens; tokenizer, targets, predictor and loss follow from them."""

    token_size: int
    """F, the numbers of a token."""
    axes: ClassVar[int] = 3
    """P, the numbers of a token's position."""
    position_unit: ClassVar[float] = 1.0
    """Positions are multiplied by it for the positional embedding."""

    @abstractmethod
    def vectors(self, values: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens of a batch.

        Args:
            values: As `collate` makes them.

        Returns:
            (T, F) their numbers, NaN where there is nothing; (T, P) positions; (N,) how many each
            value has.
        """

    def tokenizer(self, width: int) -> VectorTokenizer:
        return VectorTokenizer(self, width)

    def targets(self, values: Any) -> Tensor:
        return self.vectors(values)[0]

    def predictor(self, width: int) -> nn.Linear:
        return nn.Linear(width, self.token_size)

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return masked_mse(prediction, target, normalise=False)


class VectorTokenizer(nn.Module):
    """A linear map of the numbers of a token and of its position."""

    def __init__(self, modality: VectorTokens, width: int):
        super().__init__()
        self.modality = modality
        self.project = nn.Linear(modality.token_size + modality.axes, width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        x_TF, position_TP, counts_N = self.modality.vectors(column.values)
        x_TD = self.project(torch.cat([x_TF.nan_to_num(), position_TP], 1))
        position_TP = self.modality.position_unit * position_TP
        return Tokens.of(x_TD, column.rows, counts_N, position_TP, name, size)
