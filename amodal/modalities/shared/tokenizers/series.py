"""Tokens of `Series`: a linear map of each time patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import Column, Ragged, Tokens
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import ragged as _ragged

if TYPE_CHECKING:
    from amodal.modalities.series import Series


class SeriesTokenizer(nn.Module):
    """A linear map of the samples of a time patch and of the mask of those that exist.

    A missing sample counts as the mean.

    Args:
        series: the modality.
        width: D of the tokens.
    """

    def __init__(self, series: Series, width: int):
        super().__init__()
        self.series = series
        self.project = nn.Linear(2 * series.patch * len(series.channels), width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Tokens of series, at the positions (index of the patch, 0, 0)."""
        patches, counts = self.series.patches(cast(Ragged, column.values))
        present = (~patches.isnan()).to(patches.dtype)
        position = nn.functional.pad(_ragged.index_in_value(counts).float()[:, None], (0, 2))
        x_TD = self.project(torch.cat([patches.nan_to_num(), present], 1))
        return Tokens.of(x_TD, column.rows, counts, position, name, size)


class SeriesGraph(nn.Module):
    """Dense form of `SeriesTokenizer`."""

    inputs: ClassVar[dict[str, str]] = {
        "values": "(N, steps, channels) float32 in the data's own units: NaN where a sample is "
        "missing; anything past the end",
        "lengths": "(N,) int64: steps of each series, at least 1",
    }
    axes: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch", 1: "steps"}, {0: "batch"})

    def __init__(self, tokenizer: SeriesTokenizer):
        super().__init__()
        self.series, self.project = tokenizer.series, tokenizer.project

    def forward(self, values: Tensor, lengths: Tensor) -> _dense.Tokenised:
        mean, std = (values.new_tensor(s) for s in self.series.scale())
        inside = _dense.length_mask(values, lengths).unsqueeze(2)
        values = torch.where(inside, (values - mean) / std, torch.nan)
        patches_NLp = _dense.patchify(values, self.series.patch, torch.nan).flatten(2)
        present = (~patches_NLp.isnan()).to(patches_NLp.dtype)
        x_NLD = self.project(torch.cat([patches_NLp.nan_to_num(), present], 2))
        mask_NL = _dense.patch_mask(patches_NLp, lengths, self.series.patch)
        return x_NLD, _dense.positions_1d(patches_NLp), mask_NL

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """n random values of up to `length` steps, with gaps."""
        values = [
            _dense.random_values(self.series.scale(), (k,), rng)
            for k in _dense.example_lengths(n, length)
        ]
        return [np.where(rng.random(v.shape) < 0.2, np.float32(np.nan), v) for v in values]
