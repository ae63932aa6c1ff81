"""Dates of all grids of a record are on one scale."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.core import Tokens
from amodal.core.tokens import DATE
from amodal.nn.attention.bias import Alibi2d, PlaceBias
from amodal.nn.common_dates import SAME, at_dates_of, with_common_dates
from amodal.nn.generation.place_decoder import PlaceDecoder

NAMES = ("deep", "other", "text")
PLANE = frozenset({"deep", "other"})


def tokens_of(records):
    """Of records, each a list of (source, time, whether the month is known)."""
    listed = [(r, NAMES.index(s), t, k) for r, rows in enumerate(records) for s, t, k in rows]
    row, source, time, known = (list(c) for c in zip(*listed)) if listed else ([], [], [], [])
    time = torch.tensor(time).double()
    return Tokens(
        torch.zeros(len(listed), 1),
        torch.tensor(row, dtype=torch.int64),
        torch.tensor(source, dtype=torch.int64),
        torch.stack([time, time * 0 + 1, time * 0 + 2], 1),
        NAMES,
        len(records),
        {DATE: time.where(torch.tensor(known, dtype=torch.bool), math.nan)},
    )


def wanted(record):
    """The times of one record, in words."""
    grid = [(s, t) for s, t, _ in record if s in PLANE]
    known = all(k for s, _, k in record if s in PLANE)
    made = []
    for s, t, _ in record:
        mine = sorted({u for name, u, _ in record if name == s})
        if s not in PLANE:
            made.append(t - mine[0])
        else:
            made.append(t - min(u for _, u in grid) if known else mine.index(t))
    return made


def nearest(time, source, dates):
    """The nearest date of `deep` within a quarter of a month, the earlier one of two."""
    if source not in PLANE or not dates:
        return time
    gap, date = min((abs(date - time), date) for date in dates)
    return date if gap <= SAME else time


# eighths of a month, so that sums are exact
moments = st.integers(0, 24).map(lambda n: n / 8)
record = st.lists(
    st.tuples(st.sampled_from(NAMES), moments, st.sampled_from([True, True, True, False])),
    max_size=8,
).map(lambda rows: sorted(rows, key=lambda r: NAMES.index(r[0])))


@settings(max_examples=100, deadline=None)
@given(st.lists(record, min_size=1, max_size=5))
def test_dates_are_those_of_the_definition(records):
    tokens = tokens_of(records)
    got = with_common_dates(tokens, PLANE)
    times = [wanted(r) for r in records]
    assert got.position[:, 0].tolist() == sum(times, [])
    assert torch.equal(got.position[:, 1:], tokens.position[:, 1:])
    placed = at_dates_of(got, got.only("deep"), PLANE)
    expected = []
    for rows, row_times in zip(records, times):
        dates = [t for (s, _, _), t in zip(rows, row_times) if s == "deep"]
        expected += [nearest(t, s, dates) for (s, _, _), t in zip(rows, row_times)]
    assert placed.position[:, 0].tolist() == pytest.approx(expected, abs=1e-9)


def test_tokens_without_dates_have_unknown_months():
    tokens = tokens_of([[("deep", 5.0, True), ("deep", 7.5, True), ("other", 3.0, True)]])
    bare = Tokens(tokens.x, tokens.row, tokens.source, tokens.position, NAMES, 1)
    assert with_common_dates(tokens, PLANE).position[:, 0].tolist() == [2, 4.5, 0]
    assert with_common_dates(bare, PLANE).position[:, 0].tolist() == [0, 1, 0]


def test_corners_of_thirds_are_one_place():
    """27 steps of 7/3 are 63, but for the last bit of single precision."""
    step = 7 / 3
    assert float(torch.tensor(27.0) * torch.tensor(step)) != 63
    places = PlaceBias(Alibi2d(1), {"fine": 1.0, "coarse": step}, frozenset({"fine", "coarse"}), {})
    decoder, seen = PlaceDecoder(places, 4, width=8, depth=1, heads=1), []
    decoder.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    place = torch.tensor([[0.0, 63, 5], [0, 27, 5 / step], [0, 26, 5 / step]])
    one_row, source = torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 1])
    tokens = Tokens(torch.zeros(3, 4), one_row, source, place, ("fine", "coarse"), 1)
    found = decoder(tokens.keep(torch.tensor([True, False, False])), tokens)
    assert seen == [2]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
