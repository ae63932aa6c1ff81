"""Column, Ragged and Batch agree with lists of rows, for any pattern of presence."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from presence import (
    as_rows,
    batch_of,
    dense_column,
    index,
    lengths,
    quick,
    ragged_column,
    tables,
    values_of,
)

from amodal.core import AmodalError, Batch, Column, Ragged, row_seeds
from amodal.core.column import shared_rows, spans

MAKE = pytest.mark.parametrize("make", [ragged_column, dense_column])


@quick
@given(st.lists(st.integers(0, 4), min_size=1, max_size=7), st.data())
def test_ragged_is_a_list(sizes, data):
    values = [torch.tensor(v).reshape(-1, 2) for v in values_of(sizes)]
    ragged = Ragged.of(values)
    assert len(ragged) == len(values)
    assert [v.tolist() for v in ragged.split()] == [v.tolist() for v in values]
    assert ragged.starts().tolist() == [sum(sizes[:i]) for i in range(len(sizes))]
    chosen = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=9))
    picked = ragged[index(chosen)]
    assert [v.tolist() for v in picked.split()] == [values[i].tolist() for i in chosen]


def test_ragged_of_no_value():
    empty = Ragged(torch.zeros(0, 3), index([]))
    assert len(empty) == 0 and empty.split() == () and len(empty[index([])]) == 0
    assert spans(index([]), index([])).tolist() == []
    with pytest.raises(ValueError, match="lengths must be"):
        Ragged(torch.zeros(2), torch.tensor([2.0]))


@MAKE
@quick
@given(cells=lengths, data=st.data())
def test_column_selects_like_a_list(make, cells, data):
    column, size = make(cells), len(cells)
    expected = as_rows(column, size)
    assert column.present(size).tolist() == [c is not None for c in cells]
    mask = data.draw(st.lists(st.booleans(), min_size=len(column), max_size=len(column)))
    selected_rows = {r for r, m in zip(column.rows.tolist(), mask) if m}
    selected = [v if row in selected_rows else None for row, v in enumerate(expected)]
    mask = torch.tensor(mask, dtype=torch.bool)
    assert as_rows(column.at(mask), size) == selected
    assert as_rows(column.at(mask.nonzero().squeeze(1)), size) == selected
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    assert as_rows(column.between(start, stop), stop - start) == expected[start:stop]
    assert as_rows(column.to("cpu"), size) == expected


@MAKE
@quick
@given(parts=st.lists(lengths, min_size=1, max_size=4))
def test_stacked_columns_are_concatenated_rows(make, parts):
    stacked = Column.stack([make(p) for p in parts], [len(p) for p in parts])
    expected = [value for p in parts for value in as_rows(make(p), len(p))]
    assert as_rows(stacked, len(expected)) == expected


@quick
@given(lengths, lengths)
def test_shared_rows(a, b):
    a, b = dense_column(a), dense_column(b)
    at_a, at_b = shared_rows(a, b)
    both = sorted(set(a.rows.tolist()) & set(b.rows.tolist()))
    assert a.rows[at_a].tolist() == b.rows[at_b].tolist() == both


@MAKE
@quick
@given(table=tables(), rows=st.integers(1, 4), data=st.data())
def test_batch_is_split_and_put_together(make, table, rows, data):
    size, cells = table
    batch = batch_of(size, cells, make)
    assert batch.sources == tuple(cells)
    assert batch.present().tolist() == [
        [cells[n][r] is not None for n in cells] for r in range(size)
    ]
    parts = batch.split(rows)
    assert sum(p.size for p in parts) == size and all(0 < p.size <= rows for p in parts)
    assert all(p.sources == batch.sources for p in parts)
    assert tuple(k for p in parts for k in p.keys) == batch.keys
    assert [s for p in parts for s in p.seeds.tolist()] == batch.seeds.tolist()
    for name, column in batch.columns.items():
        pieces = [as_rows(p[name], p.size) for p in parts]
        assert [v for piece in pieces for v in piece] == as_rows(column, size)
        if parts:
            assert as_rows(
                Column.stack([p[name] for p in parts], [p.size for p in parts]), size
            ) == as_rows(column, size)
    wanted = data.draw(st.lists(st.sampled_from(batch.sources), unique=True))
    assert batch.only(*wanted).sources == tuple(wanted) and batch.only(*wanted).keys == batch.keys
    assert batch.to("cpu").seeds.tolist() == batch.seeds.tolist()


def test_a_batch_without_sources_still_has_rows():
    assert Batch.of(3, {}).present().shape == (3, 0)


def test_seeds_depend_on_key_and_salt_alone():
    assert row_seeds(["b", "a"]).tolist() == row_seeds(["a", "b"]).flip(0).tolist()
    assert row_seeds(["a"], 1).tolist() != row_seeds(["a"]).tolist()
    assert row_seeds(["a", "b"]).tolist() == [
        -1882998351095209539,
        -1599318755768268446,
    ]  # a run resumes on another machine
    assert len(set(row_seeds([str(i) for i in range(1000)]).tolist())) == 1000


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 values for 1 rows"):
        Column(torch.zeros(2, 3), index([0]))
    with pytest.raises(ValueError, match="rows must be"):
        Column(torch.zeros(1, 3), torch.zeros(1))
    with pytest.raises(ValueError, match="1 keys for 2 rows"):
        Batch.of(2, {}, ["a"])
    batch = Batch.of(1, {"image": dense_column([1])})
    with pytest.raises(AmodalError, match="'imaeg'. Did you mean image"):
        batch["imaeg"]
