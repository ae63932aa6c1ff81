from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.data import order


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(0, 1000))
def test_bijective_for_any_n(n, seed, epoch):
    assert np.array_equal(
        np.sort(order.permute(np.arange(n), n, seed=seed, epoch=epoch)), np.arange(n)
    )


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 2**40), seed=st.integers(0, 100))
def test_large_n_needs_no_table_and_positions_do_not_depend_on_each_other(n, seed):
    some = np.unique(np.linspace(0, n - 1, 50).astype(np.int64))
    whole = order.permute(some, n, seed=seed)
    assert whole.min() >= 0 and whole.max() < n and len(set(whole)) == len(some)
    assert whole[7 % len(some)] == order.permute(some[[7 % len(some)]], n, seed=seed)[0]


def chi_square(counts):
    """Deviations of the chi-square statistic of these counts from what equal chances give."""
    expected = np.mean(counts)
    freedom = len(counts) - 1
    return (np.sum((counts - expected) ** 2) / expected - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("n", [10, 100])
def test_every_record_is_first_equally_often(n):
    first = [order.permute(np.array([0]), n, epoch=e)[0] for e in range(1000)]
    assert chi_square(np.bincount(first, minlength=n)) < 5


def test_every_order_of_few_records_is_equally_likely():
    seen = Counter(tuple(order.permute(np.arange(4), 4, epoch=e)) for e in range(1000))
    assert len(seen) == 24 and chi_square(np.array(list(seen.values()))) < 5


def test_neighbours_and_epochs_are_unrelated():
    n = 1000
    a, b = (order.permute(np.arange(n), n, epoch=e) for e in (0, 1))
    assert abs(np.corrcoef(a, np.arange(n))[0, 1]) < 0.15 and abs(np.corrcoef(a, b)[0, 1]) < 0.15
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.15
    assert not np.array_equal(a, order.permute(np.arange(n), n, seed=1))


def test_positions_run_on_over_epochs():
    records, epochs = order.epochs(np.arange(25), 10, seed=3)
    assert epochs.tolist() == [0] * 10 + [1] * 10 + [2] * 5
    assert sorted(records[10:20]) == list(range(10))
    assert order.epochs(np.arange(12), 10, shuffle=False)[0].tolist() == [*range(10), 0, 1]


def test_positions_outside_are_an_error():
    with pytest.raises(ValueError, match="0 … 9"):
        order.permute(np.array([10]), 10)
    with pytest.raises(ValueError):
        order.permute(np.array([0]), 0)
