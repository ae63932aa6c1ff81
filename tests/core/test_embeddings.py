"""Embeddings agree with one dictionary for each row, for any pattern of presence."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from presence import as_rows, dense_column, quick, tables

from amodal.core import AmodalError, Embeddings
from amodal.core.embeddings import FUSED


def embeddings_of(size, table):
    return Embeddings(
        {n: dense_column(cells, 10.0 * i) for i, (n, cells) in enumerate(table.items())}, size
    )


def rows_of(z):
    """Row by row: source -> vector."""
    columns = {n: as_rows(z[n], z.size) for n in z}
    return [{n: c[r] for n, c in columns.items() if c[r] is not None} for r in range(z.size)]


@quick
@given(tables(), st.data())
def test_pair_and_complete(table, data):
    z = embeddings_of(*table)
    a, b = (data.draw(st.sampled_from(z.sources)) for _ in "ab")
    got_a, got_b = z.pair(a, b)
    both = [r for r in rows_of(z) if a in r and b in r]
    assert got_a.tolist() == [r[a] for r in both] and got_b.tolist() == [r[b] for r in both]
    names = data.draw(st.lists(st.sampled_from(z.sources), min_size=1, unique=True))
    rows, vectors = z.complete(names)
    whole = [(i, r) for i, r in enumerate(rows_of(z)) if all(n in r for n in names)]
    assert rows.tolist() == [i for i, _ in whole]
    assert [v.tolist() for v in vectors] == [[r[n] for _, r in whole] for n in names]


def unit(vector):
    norm = math.sqrt(sum(x * x for x in vector))
    return [x / norm for x in vector]


@quick
@given(tables(), st.data())
def test_fused(table, data):
    z = embeddings_of(*table)
    names = data.draw(st.none() | st.lists(st.sampled_from(z.sources), min_size=1, unique=True))
    expected = []
    for row in rows_of(z):
        units = [unit(v) for n, v in row.items() if names is None or n in names]
        expected.append([sum(xs) / len(units) for xs in zip(*units)] if units else None)
    for got, want in zip(as_rows(z.fused(names), z.size), expected):
        assert got == (None if want is None else pytest.approx(want, rel=1e-5, abs=1e-6))


@quick
@given(st.lists(tables(), min_size=1, max_size=3))
def test_stack(parts):
    names = parts[0][1].keys()
    parts = [(size, {n: cells.get(n, [None] * size) for n in names}) for size, cells in parts]
    stacked = Embeddings.stack([embeddings_of(*p) for p in parts])
    assert rows_of(stacked) == [r for p in parts for r in rows_of(embeddings_of(*p))]


def test_the_networks_own_fused_vectors_come_first():
    z = Embeddings({"image": dense_column([1, 1]), FUSED: dense_column([1, 1], 5.0)}, 2)
    assert z.sources == ("image",) and list(z) == ["image", FUSED]
    assert z.fused() is z[FUSED]
    assert z.fused(["image"]).values.norm(dim=1).tolist() == pytest.approx([1, 1])


def test_numpy_and_errors():
    z = Embeddings({"image": dense_column([1, None, 1])}, 3)
    rows, vectors = z.to_numpy()["image"]
    assert rows.tolist() == [0, 2] and vectors.shape == (2, 3) and str(vectors.dtype) == "float32"
    half = Embeddings({"image": dense_column([1]).at(torch.tensor([True]))}, 1)
    assert half.fused().rows.tolist() == [0]
    with pytest.raises(AmodalError, match="Did you mean image"):
        z["imag"]
