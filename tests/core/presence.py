"""Batches of any pattern of presence, as types under test and as plain Python rows: what the slow
references work on."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

from amodal.core import Batch, Column, Ragged, Tokens

NAMES = ("image", "text", "sound")
quick = settings(max_examples=60, deadline=None, derandomize=True)

# A row without a value is None; a value is its number of items (zero allowed in a Ragged).
lengths = st.lists(st.none() | st.integers(0, 3), max_size=7)
rows = st.integers(0, 6)


@st.composite
def tables(draw, least=0):
    """source -> for each of B rows, None or a number of items; no source is privileged, any may be
    empty or absent."""
    size = draw(st.integers(least, 6))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    cell = st.none() | st.integers(0, 3)
    return size, {n: draw(st.lists(cell, min_size=size, max_size=size)) for n in names}


def values_of(cells, start=0.0):
    """None stays None; a number of items becomes that many pairs of numbers that occur nowhere
    else."""
    result = []
    for cell in cells:
        result.append(None if cell is None else [[start + i, -start - i] for i in range(cell)])
        start += cell or 0
    return result


def ragged_column(cells):
    present = [(row, value) for row, value in enumerate(values_of(cells)) if value is not None]
    flat = torch.tensor(
        [item for _, value in present for item in value], dtype=torch.float32
    ).reshape(-1, 2)
    return Column(
        Ragged(flat, torch.tensor([len(v) for _, v in present], dtype=torch.int64)),
        index([r for r, _ in present]),
    )


def dense_column(cells, start=0.0):
    """One vector for each present row."""
    present = [row for row, cell in enumerate(cells) if cell is not None]
    first = torch.arange(len(present), dtype=torch.float32) + start + 1
    return Column(torch.stack([first, first.sin(), first.cos()], 1), index(present))


def index(numbers):
    return torch.tensor(numbers, dtype=torch.int64)


def as_rows(column, size):
    """A column as a list of B values (lists of numbers), None where the row has none."""
    result = [None] * size
    values = column.values.split() if isinstance(column.values, Ragged) else column.values
    for row, value in zip(column.rows.tolist(), values):
        result[row] = value.tolist()
    return result


def batch_of(size, table, make=ragged_column):
    return Batch.of(size, {name: make(cells) for name, cells in table.items()})


def bag_of(cells, name="image", start=0.0):
    """Tokens of one source; a cell of None or 0 gives the row no token."""
    column = values_of(cells, start)
    items = [
        (row, i, item) for row, value in enumerate(column) for i, item in enumerate(value or [])
    ]
    x = torch.tensor([item for *_, item in items], dtype=torch.float32).reshape(-1, 2)
    position = torch.tensor([[i, row, 0] for row, i, _ in items], dtype=torch.float32).reshape(
        -1, 3
    )
    row = index([row for row, *_ in items])
    return Tokens(x, row, torch.zeros_like(row), position, (name,), len(cells))


def token_rows(tokens):
    """A bag as B lists of (name, x, position)."""
    result = [[] for _ in range(tokens.size)]
    for x, row, source, position in zip(
        tokens.x.tolist(), tokens.row.tolist(), tokens.source.tolist(), tokens.position.tolist()
    ):
        result[row].append((tokens.names[source], x, position))
    return result
