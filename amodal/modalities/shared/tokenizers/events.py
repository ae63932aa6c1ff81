"""Tokens of `Events`: the sum of the embeddings of an event's fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import Column, Ragged, Tokens
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared.tokenizers.table import TableGraph, TableTokenizer

if TYPE_CHECKING:
    from amodal.modalities.events import Events


class EventsTokenizer(nn.Module):
    """One token for each event: the sum of the embeddings of its fields and of its gap.

    Fields are embedded as the cells of a table. The sum is a linear map of their concatenation.

    Args:
        events: the modality.
        width: D of the tokens.
    """

    def __init__(self, events: Events, width: int):
        super().__init__()
        self.events = events
        self.cells = TableTokenizer(events.cells(), width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Tokens of records, at the positions (time since the first event, index, 0).

        Time is in units of the modality's `step`.
        """
        events = cast(Ragged, column.values)
        rows = self.events.table(events)
        row_column = Column(rows, torch.arange(len(rows), device=rows.device))
        x_TD = self.cells(row_column, name, len(rows)).x
        time = events.flat[:, 0] / self.events.step
        index = _ragged.index_in_value(events.lengths).to(time.dtype)
        position = torch.stack([time, index, torch.zeros_like(time)], 1)
        return Tokens.of(x_TD, column.rows, events.lengths, position, name, size)


class EventsGraph(nn.Module):
    """Dense form of `EventsTokenizer`."""

    inputs: ClassVar[dict[str, str]] = {
        "events": "(N, events, 1 + fields) float32, in order of time: the time since the first "
        "event, then of each field the number, or the index of the category in its list (the "
        "list's length for one that is not in it); NaN where a cell is missing; anything past the "
        "end",
        "lengths": "(N,) int64: events of each record, at least 1",
    }
    axes: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch", 1: "events"}, {0: "batch"})

    def __init__(self, tokenizer: EventsTokenizer):
        super().__init__()
        self.events, self.table = tokenizer.events, TableGraph(tokenizer.cells)

    def forward(self, events: Tensor, lengths: Tensor) -> _dense.Tokenised:
        mask_NL = _dense.length_mask(events, lengths)
        events = torch.where(mask_NL.unsqueeze(2), events, 0.0)
        time = events[:, :, 0] / self.events.step
        gap = nn.functional.pad((time[:, 1:] - time[:, :-1]).clamp(min=0), (1, 0))
        gap = gap.log1p() if self.events.log else gap
        cells = torch.cat([events[:, :, 1:], gap.unsqueeze(2)], 2)
        x_NLD = self.table(cells.flatten(0, 1))[0].reshape(*cells.shape[:2], -1)
        index = torch.arange(events.shape[1], device=events.device).to(time.dtype).expand_as(time)
        return x_NLD, torch.stack([time, index, torch.zeros_like(time)], 2), mask_NL

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        """n random values of up to `length` events."""
        values = []
        for k in _dense.example_lengths(n, length):
            times = rng.exponential(self.events.step, k).cumsum()
            cells = np.stack(self.table.examples(k, length, rng))[:, :-1]
            value = np.concatenate([(times - times[0])[:, None], cells], 1)
            values.append(value.astype(np.float32))
        return values
