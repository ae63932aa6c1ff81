"""Tokens of `Table`: an embedding of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import Column, Tokens
from amodal.core.host import constant, host_copy, to_device
from amodal.modalities.shared import dense as _dense

if TYPE_CHECKING:
    from amodal.modalities.table import Table


class TableTokenizer(nn.Module):
    """One token for each cell (Gorishniy et al., FT-Transformer, 2021, section 3.3).

    The embedding of a number x is x w_column + b_column, that of a category e_category + b_column.

    Args:
        table: the modality.
        width: D of the tokens.
    """

    def __init__(self, table: Table, width: int):
        super().__init__()
        self.table = table
        columns, features = len(table.columns), 1 + 2 * table.frequencies
        self.weight = nn.Parameter(
            torch.empty(columns, features, width).uniform_(-1, 1) / (width * features) ** 0.5
        )
        self.bias = nn.Parameter(torch.empty(columns, width).uniform_(-1, 1) / width**0.5)
        self.frequency = nn.Parameter(torch.randn(columns, table.frequencies))
        self.embed = nn.Embedding(max(1, sum(table.num_codes())), width)
        nn.init.uniform_(self.embed.weight, -(width**-0.5), width**-0.5)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Tokens of rows, at the positions (index of the column or group of columns, 0, 0)."""
        values_NC = cast(Tensor, column.values)
        sizes = constant(self.table.num_codes(), values_NC, torch.int64)
        present = ~values_NC.isnan()
        number_NC1 = self.table.standardised(values_NC).nan_to_num().unsqueeze(2)
        angle = 2 * torch.pi * self.frequency * number_NC1
        features = torch.cat([number_NC1, angle.sin(), angle.cos()], 2)
        x_NCD = torch.einsum("ncf,cfd->ncd", features, self.weight)
        if self.table.categories:
            code_NC = values_NC.nan_to_num().long().clamp(min=0)
            code_NC = code_NC.minimum((sizes - 1).clamp(min=0)) + (sizes.cumsum(0) - sizes)
            # codes of numeric columns mean nothing and are not used below
            code_NC = code_NC.clamp(max=self.embed.num_embeddings - 1)
            x_NCD = torch.where((sizes > 0)[:, None], self.embed(code_NC), x_NCD)
        x_NGD, _ = sum_groups(x_NCD + self.bias, present, self.table.patch)
        mask_NG = self.table.tokens_of(host_copy(values_NC))
        row, cell = (to_device(i, values_NC.device) for i in mask_NG.nonzero(as_tuple=True))
        position = nn.functional.pad(cell.float()[:, None], (0, 2))
        lengths = to_device(mask_NG.sum(1), values_NC.device)
        return Tokens.of(x_NGD[row, cell], column.rows, lengths, position, name, size)


class TableGraph(nn.Module):
    """Dense form of `TableTokenizer`."""

    inputs: ClassVar[dict[str, str]] = {
        "cells": "(N, columns) float32: the number, or the index of the category in its list (the "
        "list's length for one that is not in it); NaN where a cell is missing; a row has at least "
        "one cell"
    }
    axes: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch"},)
    sizes: Tensor
    first: Tensor

    def __init__(self, tokenizer: TableTokenizer):
        super().__init__()
        self.cells = tokenizer
        sizes = torch.tensor(tokenizer.table.num_codes())
        self.register_buffer("sizes", sizes)
        self.register_buffer("first", sizes.cumsum(0) - sizes)

    def forward(self, cells: Tensor) -> _dense.Tokenised:
        part, present = self.cells, ~cells.isnan()
        features = number_NC1 = part.table.standardised(cells).nan_to_num().unsqueeze(2)
        angle = 2 * torch.pi * part.frequency * number_NC1
        if part.table.frequencies:
            features = torch.cat([number_NC1, angle.sin(), angle.cos()], 2)
        x_NCD = (features.unsqueeze(2) @ part.weight).squeeze(2)
        if part.table.categories:
            code_NC = cells.nan_to_num().long().clamp(min=0)
            code_NC = torch.minimum(code_NC, (self.sizes - 1).clamp(min=0)) + self.first
            # codes of numeric columns mean nothing and are not used below
            code_NC = code_NC.clamp(max=part.embed.num_embeddings - 1)
            x_NCD = torch.where((self.sizes > 0)[:, None], part.embed(code_NC), x_NCD)
        x_NGD, mask_NG = sum_groups(x_NCD + part.bias, present, part.table.patch)
        return x_NGD, _dense.positions_1d(x_NGD), mask_NG

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """n random rows, three tenths of their cells missing."""
        table = self.cells.table
        codes = rng.integers(0, np.maximum(table.num_codes(), 1), (n, len(table.columns)))
        numbers = _dense.random_values(table.scale(), (n,), rng)
        values = np.where(table.numeric(), numbers, codes).astype(np.float32)
        missing = rng.random(values.shape) < 0.3
        missing[:, rng.integers(len(table.columns))] = False
        return list(np.where(missing, np.float32(np.nan), values))


def group_columns(values_NC: Tensor, patch: int, fill: float) -> Tensor:
    """(N, C, ...) -> (N, groups, patch, ...), the last group padded with `fill`."""
    short = -values_NC.shape[1] % patch
    rest = values_NC.new_full((values_NC.shape[0], short, *values_NC.shape[2:]), fill)
    groups: Tensor = torch.cat([values_NC, rest], 1).unflatten(1, (-1, patch))
    return groups


def sum_groups(x_NCD: Tensor, present_NC: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Sum the cells of each `patch` neighbouring columns, scaled to the size of one cell.

    Args:
        x_NCD: embeddings of the cells.
        present_NC: bool, which cells exist.
        patch: columns of a group.

    Returns:
        (N, groups, D), and which groups have a cell (N, groups) bool.
    """
    if patch == 1:
        return x_NCD, present_NC
    x_NGD = group_columns(x_NCD * present_NC.unsqueeze(2), patch, 0).sum(2) / patch**0.5
    return x_NGD, group_columns(present_NC, patch, False).any(2)
