"""Dates of all grids of a record on one scale, so that what lies at one place at one time meets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from amodal.core import Tokens, field_of
from amodal.core.host import constant
from amodal.core.tokens import DATE
from amodal.nn.generation.place_decoder import distinct

SAME = 0.25
"""Months between two dates that a place of two sensors counts as one."""


def with_common_dates(tokens: Tokens, plane: Collection[str]) -> Tokens:
    """The same tokens, with first coordinates that begin at 0 in each row.

    Fields of a plane count months from the first date of the row in any of them, so that a date
    that one of them lacks moves none of the others. Where one of them in the row has an unknown
    month, the dates of each are numbered 0, 1, … instead. Other fields count from their own first.

    Args:
        tokens: All those of the rows, of any fields.
        plane: Fields.
    """
    time, count = tokens.position[:, 0], len(tokens.names)
    on_plane = of_fields(tokens, plane)
    date = tokens.attributes.get(DATE, torch.full_like(time, torch.nan))
    unknown_B = _any(date.isnan() & on_plane, tokens.row, tokens.size)
    # the fields of a plane are one group, and every other source is one
    group = tokens.row * (count + 1) + tokens.source.where(~on_plane, count)
    since = time - _first(time, group, tokens.size * (count + 1))[group]
    source = tokens.row * count + tokens.source
    number, _ = distinct(source.unsqueeze(1), time.unsqueeze(1))
    rank = number - _first(number, source, tokens.size * count)[source]
    common = torch.where(on_plane & unknown_B[tokens.row], rank.to(time.dtype), since)
    return _at(tokens, common)


def at_dates_of(tokens: Tokens, reference: Tokens, plane: Collection[str]) -> Tokens:
    """The same tokens, those within `SAME` months of a date of the reference at the nearest one.

    Args:
        tokens: With common dates, of any fields; those that are not of the plane stay.
        reference: Tokens of these rows, with common dates.
        plane: Fields.
    """
    if not len(tokens) or not len(reference):
        return tokens
    time, theirs = (t.position[:, 0].double() for t in (tokens, reference))
    # rows one after the other on one line, farther from each other than dates of one row
    span = 1 + torch.maximum(time.max(), theirs.max())
    line, sorted_r = time + tokens.row * span, (theirs + reference.row * span).sort()
    after = torch.searchsorted(sorted_r.values, line).clamp(max=len(theirs) - 1)
    before = (after - 1).clamp(min=0)
    gap_before, gap_after = ((sorted_r.values[i] - line).abs() for i in (before, after))
    gap, nearest = (
        torch.where(gap_before <= gap_after, a, b)
        for a, b in ((gap_before, gap_after), (before, after))
    )
    found = reference.position[sorted_r.indices[nearest], 0]
    # months of one day of two years may differ in the last digits
    same = (gap <= SAME + 1e-6) & of_fields(tokens, plane)
    return _at(tokens, found.where(same, tokens.position[:, 0]))


def of_fields(tokens: Tokens, fields: Collection[str]) -> Tensor:
    """(T,) bool, whether a token is of one of the fields."""
    member = [field_of(name) in fields for name in tokens.names]
    return constant(member, tokens.position, torch.bool)[tokens.source]


def _first(value_T: Tensor, group_T: Tensor, groups: int) -> Tensor:
    none = value_T.new_zeros(groups)
    return none.scatter_reduce(0, group_T, value_T, "amin", include_self=False)


def _any(mask_T: Tensor, row_T: Tensor, rows: int) -> Tensor:
    count = torch.zeros(rows, device=mask_T.device, dtype=torch.int64)
    return count.index_add(0, row_T, mask_T.to(torch.int64)) > 0


def _at(tokens: Tokens, time_T: Tensor) -> Tokens:
    position = torch.cat([time_T.unsqueeze(1), tokens.position[:, 1:]], 1)
    return replace(tokens, position=position)
