"""Channels and places are hidden independently, as functions of the row's seed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.core import AmodalError
from amodal.masking.grid import float_bits, grid_keep


def cells(channels, places, row=0, seed=7, ground=0):
    """Every cell of a row as (row, seed, channel, place, ground), with codes of any size."""
    both = torch.cartesian_prod(torch.arange(channels), torch.arange(places))
    one = torch.ones(len(both), dtype=torch.int64)
    return torch.stack(
        [
            row * one,
            (seed + row) * one,
            both[:, 0] * -(10**12),
            both[:, 1] * 999 + ground,
            ground * one,
        ]
    )


@pytest.mark.parametrize("channels, places, seen", [
    (13, 36, (6, 9)), (4, 16, (2, 4)), (3, 10, (2, 2)), (2, 3, (2, 1)), (1, 1, (1, 1)),
    (200, 64, (100, 16)),
])  # fmt: skip
def test_how_many_are_seen(channels, places, seen):
    """Half of the channels, two at least; a quarter of the places, rounded down."""
    table = cells(channels, places)
    channel, place = grid_keep(*table)
    for keep, code, count in ((channel, table[2], seen[0]), (place, table[3], seen[1])):
        assert len(code[keep].unique()) == count
        # whole lines
        assert not set(code[keep].tolist()) & set(code[~keep].tolist())


def test_each_ground_is_drawn_by_itself():
    table = torch.cat([cells(3, 8), cells(3, 8, ground=5)], 1)
    _, place = grid_keep(*table)
    for ground in (0, 5):
        mine = table[4] == ground
        assert len(table[3][mine & place].unique()) == 2


def test_a_ratio_that_is_not_quite_a_tenth():
    table = cells(1, 10)
    assert len(table[3][grid_keep(*table, place_ratio=0.9)[1]].unique()) == 1
    assert len(table[3][grid_keep(*table, place_ratio=0.7)[1]].unique()) == 3


def test_both_are_drawn_independently():
    """Over many rows a channel and a place are hidden together as often as chance has it."""
    table = torch.cat([cells(4, 4, row=row) for row in range(2000)], 1)
    channel, place = grid_keep(*table)
    assert abs(float((~channel).float().mean()) - 0.5) < 0.02
    assert abs(float((~place).float().mean()) - 0.75) < 0.02
    assert abs(float((~channel & ~place).float().mean()) - 0.375) < 0.02
    # and every channel and place as often as others
    for code, keep, share in ((table[2], channel, 0.5), (table[3], place, 0.25)):
        for one in code.unique():
            assert abs(float(keep[code == one].float().mean()) - share) < 0.05


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_row_is_drawn_alike_in_any_batch(data):
    """Whatever is missing, in any order, beside any rows; and something is always seen."""
    parts = []
    for row in range(data.draw(st.integers(1, 4))):
        whole = cells(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6)), row=row)
        there = torch.tensor([data.draw(st.booleans()) for _ in range(whole.shape[1])])
        there[0] = True
        parts.append(whole[:, there])
    table = torch.cat(parts, 1)
    order = torch.randperm(table.shape[1], generator=torch.Generator().manual_seed(0))
    mixed = torch.stack(grid_keep(*table[:, order]))
    for row, part in enumerate(parts):
        alone = torch.stack(grid_keep(*part))
        assert alone.all(0).any()
        assert torch.equal(alone, torch.stack(grid_keep(*table))[:, table[0] == row])
        back = mixed[:, torch.argsort(order)]
        assert torch.equal(alone, back[:, table[0] == row])


def test_where_nothing_would_be_seen_one_place_more_is():
    """Each channel has a place of its own, so no seen channel need be at the seen place."""
    for seed in range(40):
        number = torch.arange(6)
        one = torch.ones(6, dtype=torch.int64)
        channel, place = grid_keep(0 * one, seed * one, number, 50 + number, 0 * one)
        assert channel.sum() == 3
        assert place.sum() in (1, 2) and (channel & place).sum() == 1


def test_no_token():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert [len(keep) for keep in grid_keep(*[nothing] * 5)] == [0, 0]


@pytest.mark.parametrize("ratio", [1.0, -0.1, float("nan")])
def test_ratios_that_are_no_shares(ratio):
    with pytest.raises(AmodalError, match="place_ratio is a share"):
        grid_keep(*cells(2, 2), place_ratio=ratio)


def test_codes_of_numbers():
    bits = float_bits(torch.tensor([0.0, -0.0, 1.0, 665.0]))
    assert bits[0] == bits[1] == 0 and len(bits.unique()) == 3
