"""Tokens agree with lists of tokens, row by row, for any pattern of presence."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from presence import NAMES, as_rows, bag_of, index, quick, tables, token_rows

from amodal.core import AmodalError, Tokens


@st.composite
def bags(draw):
    """Bags of one batch, of several sources, a source perhaps in two of them."""
    size = draw(st.integers(0, 5))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4))
    cells = st.lists(st.none() | st.integers(0, 3), min_size=size, max_size=size)
    return [bag_of(draw(cells), name, start=100.0 * i) for i, name in enumerate(names)]


@quick
@given(bags())
def test_join(bags):
    joined = Tokens.join(bags)
    rows = [token_rows(b) for b in bags]
    assert token_rows(joined) == [
        [token for r in rows for token in r[i]] for i in range(bags[0].size)
    ]
    assert joined.row.tolist() == sorted(joined.row.tolist())
    assert joined.names == tuple(dict.fromkeys(b.names[0] for b in bags))
    # joining is associative
    assert token_rows(Tokens.join([Tokens.join(bags[:1]), *bags[1:]])) == token_rows(joined)
    assert token_rows(Tokens.join([bags[0], Tokens.join(bags)])) == token_rows(
        Tokens.join([bags[0], *bags])
    )


@quick
@given(bags(), st.data())
def test_keep_and_only(bags, data):
    joined = Tokens.join(bags)
    tokens = [(row, token) for row, tokens in enumerate(token_rows(joined)) for token in tokens]
    mask = data.draw(st.lists(st.booleans(), min_size=len(joined), max_size=len(joined)))
    remaining = [
        [t for (r, t), m in zip(tokens, mask) if m and r == row] for row in range(joined.size)
    ]
    assert token_rows(joined.keep(torch.tensor(mask, dtype=torch.bool))) == remaining
    wanted = data.draw(st.lists(st.sampled_from(joined.names), unique=True))
    only = joined.only(*wanted)
    assert token_rows(only) == [[t for t in row if t[0] in wanted] for row in token_rows(joined)]
    assert only.names == joined.names


@quick
@given(bags())
def test_lengths_within_first_and_pool(bags):
    joined = Tokens.join(bags)
    rows = token_rows(joined)
    assert joined.lengths().tolist() == [len(r) for r in rows]
    assert joined.within().tolist() == [i for r in rows for i in range(len(r))]
    assert as_rows(joined.first(), joined.size) == [r[0][1] if r else None for r in rows]
    for got, row in zip(as_rows(joined.pool(), joined.size), rows):
        mean = torch.tensor([x for _, x, _ in row]).mean(0).tolist() if row else None
        assert got == (pytest.approx(mean) if row else None)


@quick
@given(tables())
def test_tokens_of_one_source(table):
    size, cells = table
    for name, numbers in cells.items():
        bag = bag_of(numbers, name)
        rows = [
            r for r, n in enumerate(numbers) if n is not None
        ]  # a value of no item yields no token
        made = Tokens.of(
            bag.x, index(rows), index([numbers[r] for r in rows]), bag.position, name, size
        )
        assert token_rows(made) == token_rows(bag)


def test_pool_passes_gradients_to_every_token():
    bag = bag_of([2, None, 1, 0])
    x = bag.x.clone().requires_grad_()
    bag.with_x(x).pool().values.sum().backward()
    assert x.grad.tolist() == [[0.5, 0.5], [0.5, 0.5], [1, 1]]


def test_what_does_not_fit_is_refused():
    bag = bag_of([1, 2])
    with pytest.raises(ValueError, match="different batches"):
        Tokens.join([bag, bag_of([1])])
    with pytest.raises(ValueError, match="3 tokens"):
        Tokens(bag.x, bag.row[:2], bag.source, bag.position, bag.names, 2)
    with pytest.raises(AmodalError, match="Did you mean image"):
        bag.only("imagee")
