"""Small things that every test of the network needs."""

from dataclasses import dataclass

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from amodal.core import Batch, Column, Ragged, Tokens
from amodal.core.embeddings import FUSED

WIDTH = 24
quick = settings(max_examples=40, deadline=None, derandomize=True)
lengths = st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 5, 8]), min_size=1, max_size=6)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def bag_of(lengths, name="image", *, width=WIDTH, seed=0, dtype=torch.float64):
    """Random tokens: `lengths[r]` of them in row r, at places on a grid."""
    lengths = torch.tensor(lengths)
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    position = random(len(row), 3, seed=seed + 1).mul(3).abs().to(dtype)
    return Tokens(
        random(len(row), width, seed=seed, dtype=dtype),
        row,
        torch.zeros_like(row),
        position,
        (name,),
        len(lengths),
    )


@st.composite
def joined(draw, names=("image", "text", FUSED)):
    """A bag of several sources, each of any length in each row, but fusion tokens in every row that
    has a token."""
    size = draw(st.integers(1, 5))
    one = st.sampled_from([0, 0, 1, 1, 2, 3, 5])
    numbers = {n: draw(st.lists(one, min_size=size, max_size=size)) for n in names if n != FUSED}
    if FUSED in names:
        numbers[FUSED] = [2 if any(column) else 0 for column in zip(*numbers.values())]
    return Tokens.join([bag_of(v, n, seed=10 * i) for i, (n, v) in enumerate(numbers.items())])


@dataclass(frozen=True)
class Toy:
    """A modality whose values are Ragged (length, 3); what an encoder asks of a modality is a
    tokeniser."""

    def tokenizer(self, width):
        return ToyTokenizer(width)


class ToyTokenizer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.project = nn.Linear(3, width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        flat, lengths = column.values.flat, column.values.lengths
        step = torch.cat([torch.arange(n) for n in lengths.tolist()] or [torch.arange(0)])
        position = torch.stack([step, step * 0, step * 0], 1).to(flat.dtype)
        return Tokens.of(self.project(flat), column.rows, lengths, position, name, size)


def batch_of(table, *, seed=0, dtype=torch.float32):
    """source -> for each row a number of tokens >= 1, or None."""
    columns, size = {}, len(next(iter(table.values())))
    for i, (name, cells) in enumerate(table.items()):
        # a value depends on its row alone, so that batches can be compared row by row
        values = [
            random(n, 3, seed=seed + 1000 * i + r, dtype=dtype) for r, n in enumerate(cells) if n
        ]
        rows = torch.tensor([r for r, n in enumerate(cells) if n], dtype=torch.int64)
        empty = Ragged(torch.zeros(0, 3, dtype=dtype), torch.zeros(0, dtype=torch.int64))
        columns[name] = Column(Ragged.of(values) if values else empty, rows)
    return Batch.of(size, columns)


def reorder(batch, order):
    """The batch whose row i is row order[i] of this one."""
    columns = {}
    for name, c in batch.columns.items():
        at = {r: i for i, r in enumerate(c.rows.tolist())}
        new = [(i, at[r]) for i, r in enumerate(order) if r in at]
        index = torch.tensor([i for _, i in new], dtype=torch.int64)
        columns[name] = Column(
            c.values[index], torch.tensor([i for i, _ in new], dtype=torch.int64)
        )
    return Batch(len(order), columns, tuple(batch.keys[i] for i in order), batch.seeds[list(order)])


def vectors(embeddings):
    """(row, source) -> vector."""
    return {
        (r, s): v
        for s in embeddings
        for r, v in zip(embeddings[s].rows.tolist(), embeddings[s].values)
    }


def same(a, b, **tolerance):
    """Two dictionaries of vectors agree in keys and in values."""
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(
            a[key], b[key], **tolerance, msg=lambda m, key=key: f"{key}: {m}"
        )
