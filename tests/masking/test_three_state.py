"""Masks of three states: shares, structure, and that a row's states depend on the row alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.core import AmodalError
from amodal.masking.three_state import DECODE, ENCODE, IGNORE, ThreeState

FINE, COARSE, WEATHER, PLACE = range(4)
"""Fields: of five groups over dates and places, of two over places, over dates, and of neither."""
GROUPS = {FINE: 5, COARSE: 2, WEATHER: 1, PLACE: 1}


def record(dates, side, fields=(FINE, COARSE, WEATHER, PLACE)):
    """(field, group, date, y, x) of each token."""
    spans = {
        FINE: (dates, side, side),
        COARSE: (1, side, side),
        WEATHER: (dates, 1, 1),
        PLACE: (1, 1, 1),
    }
    return [
        (f, 10 * f + g, t, y, x)
        for f in fields
        for g in range(GROUPS[f])
        for t in range(spans[f][0])
        for y in range(spans[f][1])
        for x in range(spans[f][2])
    ]


def table(records, first_seed=0):
    """Tokens of records, as `ThreeState.structured` takes them."""
    row = torch.tensor([r for r, tokens in enumerate(records) for _ in tokens], dtype=torch.int64)
    numbers = [token for tokens in records for token in tokens]
    numbers = torch.tensor(numbers, dtype=torch.int64).view(-1, 5)
    order = torch.tensor([i for tokens in records for i in range(len(tokens))], dtype=torch.int64)
    return {
        "row_T": row,
        "seed_T": row * 7919 + first_seed,
        "order_T": order,
        "field_T": numbers[:, 0],
        "group_T": numbers[:, 1] * 2**40 - 5,
        "position_TP": numbers[:, 2:].float(),
    }


def random_of(tokens, **options):
    return ThreeState(**options).random(*(tokens[n] for n in ("row_T", "seed_T", "order_T")))


def chosen(tokens, index):
    return {name: value[index] for name, value in tokens.items()}


@pytest.mark.parametrize("count, seen, predicted", [
    (1, 1, 0), (2, 1, 1), (3, 1, 1), (9, 1, 4), (10, 1, 5), (20, 2, 10), (100, 10, 50),
])  # fmt: skip
def test_shares_of_tokens(count, seen, predicted):
    state = random_of(table([record(1, 1, (PLACE,)) * count] * 3)).view(3, count)
    assert ((state == ENCODE).sum(1) == seen).all()
    assert ((state == DECODE).sum(1) == predicted).all()
    assert ((state == IGNORE).sum(1) == count - seen - predicted).all()


def test_every_token_has_each_state_by_its_share():
    state = random_of(table([record(1, 1, (PLACE,)) * 20] * 2000)).view(2000, 20)
    for which, share in ((ENCODE, 0.1), (DECODE, 0.5), (IGNORE, 0.4)):
        assert ((state == which).double().mean(0) - share).abs().max() < 0.05


def test_other_shares():
    state = random_of(table([record(1, 1, (PLACE,)) * 20]), encode=0.25, decode=0.75)
    assert (state == ENCODE).sum() == 5 and (state == DECODE).sum() == 15
    tokens = table([record(8, 1, (WEATHER,))] * 30)
    state = ThreeState(encode=0.25, decode=0.75).structured(**tokens).view(30, 8)
    assert ((state == ENCODE).sum(1) == 2).all() and ((state == DECODE).sum(1) == 6).all()


RECORDS = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.integers(1, 4),
        st.sets(st.sampled_from([FINE, COARSE, WEATHER, PLACE]), min_size=1),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(records=RECORDS, seed=st.integers(0, 10_000), data=st.data())
def test_states_depend_on_their_own_row_only(records, seed, data):
    tokens = table([record(d, s, tuple(sorted(f))) for d, s, f in records], seed)
    whole = ThreeState().structured(**tokens), random_of(tokens)
    shuffled = torch.randperm(len(tokens["row_T"]), generator=torch.Generator().manual_seed(seed))
    moved = chosen(tokens, shuffled) | {"row_T": -3 * tokens["row_T"][shuffled]}
    assert torch.equal(ThreeState().structured(**moved), whole[0][shuffled])
    assert torch.equal(random_of(moved), whole[1][shuffled])
    rows = data.draw(st.sets(st.sampled_from(range(len(records))), min_size=1))
    part = torch.isin(tokens["row_T"], torch.tensor(sorted(rows)))
    alone = chosen(tokens, part)
    assert torch.equal(ThreeState().structured(**alone), whole[0][part])
    assert torch.equal(random_of(alone), whole[1][part])


@settings(deadline=None, max_examples=60)
@given(records=RECORDS, seed=st.integers(0, 10_000))
def test_rows_of_two_tokens_or_more_have_something_to_see_and_to_predict(records, seed):
    tokens = table([record(d, s, tuple(sorted(f))) for d, s, f in records], seed)
    for state in (ThreeState().structured(**tokens), random_of(tokens)):
        for row in range(len(records)):
            mine = state[tokens["row_T"] == row]
            assert (mine == ENCODE).any() and (len(mine) == 1 or (mine == DECODE).any())


def by_row(tokens, state, count):
    """Of each row: its states, fields, groups and positions."""
    names = ("field_T", "group_T", "position_TP")
    for row in range(count):
        at = tokens["row_T"] == row
        yield (state[at], *(tokens[name][at] for name in names))


def test_groups_are_either_seen_or_predicted():
    count = 300
    tokens = table([record(6, 4)] * count)
    seen_groups, predicted_groups = [], []
    for state, _, group, _ in by_row(tokens, ThreeState().structured(**tokens), count):
        seen, predicted = (set(group[state == which].tolist()) for which in (ENCODE, DECODE))
        assert not seen & predicted
        seen_groups.append(seen)
        predicted_groups.append(predicted)
    # nine groups, of which half at most are seen; of the others each by a fair coin
    assert {len(s) for s in seen_groups} == {2, 3, 4}
    mean = sum(len(p) / (9 - len(s)) for s, p in zip(seen_groups, predicted_groups)) / count
    assert 0.45 < mean < 0.58
    for groups in (seen_groups, predicted_groups):
        assert len(set.union(*groups)) == 9


def test_a_row_of_many_groups_sees_two_to_six():
    tokens = table([[(0, g, 0, y, x) for g in range(17) for y in range(4) for x in range(4)]] * 300)
    states = by_row(tokens, ThreeState().structured(**tokens), 300)
    sizes = [len(set(group[state == ENCODE].tolist())) for state, _, group, _ in states]
    assert [sizes.count(n) > 30 for n in range(1, 8)] == [False, *[True] * 5, False]


def test_whole_dates_or_whole_places():
    count = 200
    tokens = table([record(6, 4)] * count)
    kinds = []
    for state, field, group, place in by_row(tokens, ThreeState().structured(**tokens), count):
        found = []
        for axes in ((0,), (1, 2)):
            units = {
                which: {
                    tuple(p) for p in place[(state == which) & (field == FINE)][:, axes].tolist()
                }
                for which in (ENCODE, DECODE)
            }
            total = 6 if axes == (0,) else 16
            apart = not units[ENCODE] & units[DECODE]
            # a tenth of six or sixteen is less than two, and half of them are three or eight
            sizes = [len(units[ENCODE]), len(units[DECODE])]
            found.append(apart and sizes[0] in (0, 1) and sizes[1] in (0, total // 2))
            for which in (ENCODE, DECODE):  # what is chosen is chosen whole
                for g in set(group[(state == which) & (field == FINE)].tolist()):
                    mine = (group == g) & (state == which)
                    if found[-1]:
                        across = 96 // total
                        assert int(mine.sum()) == across * len(units[which])
        kinds.append(tuple(found))
    assert all(any(k) for k in kinds)
    by_date = sum(k[0] and not k[1] for k in kinds)
    by_place = sum(k[1] and not k[0] for k in kinds)
    assert by_date > 50 and by_place > 50


def test_groups_without_dates_or_places_are_whole():
    count = 200
    tokens = table([record(6, 4)] * count)
    whole, parted = 0, 0
    for state, field, _, place in by_row(tokens, ThreeState().structured(**tokens), count):
        by_date = (
            len({*map(tuple, place[(state != IGNORE) & (field == FINE)][:, 1:].tolist())}) == 16
        )
        coarse, weather = state[field == COARSE], state[field == WEATHER]
        for mine, is_whole in ((coarse[:16], by_date), (coarse[16:], by_date)):
            if (mine != IGNORE).any() and is_whole:
                whole += int(len(mine.unique()) == 1)
        if (weather != IGNORE).any() and by_date:
            parted += int(len(weather.unique()) > 1)
    assert whole > 20 and parted > 10


def test_equal_dates_of_two_fields_have_one_state():
    first = [(FINE, g, t, 0, 0) for g in range(2) for t in range(8)]
    second = [(WEATHER, 90 + g, t, 0, 0) for g in range(2) for t in range(8)]
    tokens = table([first + second] * 100)
    for state, _, _, place in by_row(tokens, ThreeState().structured(**tokens), 100):
        for which, other in ((ENCODE, DECODE), (DECODE, ENCODE)):
            dates = set(place[state == which][:, 0].tolist())
            assert not dates & set(place[state == other][:, 0].tolist())
            assert len(dates) == (1 if which == ENCODE else 4)


def test_one_group_is_seen_and_predicted():
    tokens = table([record(1, 5, (COARSE,))[:25]] * 50)
    state = ThreeState().structured(**tokens).view(50, 25)
    assert ((state == ENCODE).sum(1) == 2).all() and ((state == DECODE).sum(1) == 12).all()


def test_what_structure_cannot_part_is_drawn_at_random():
    cells = [(PLACE, 30, 0, 0, 0)] * 8  # one group, no date, no place
    state = ThreeState().structured(**table([cells] * 50)).view(50, 8)
    assert ((state == ENCODE).sum(1) == 1).all() and ((state == DECODE).sum(1) == 4).all()
    assert len(state.unique(dim=0)) > 20


def test_two_fields_of_one_token_each():
    state = ThreeState().structured(**table([[(2, 20, 0, 0, 0), (3, 30, 0, 0, 0)]] * 200))
    pairs = state.view(200, 2)
    assert ((pairs == ENCODE).sum(1) == 1).all() and ((pairs == DECODE).sum(1) == 1).all()
    assert 60 < int((pairs[:, 0] == ENCODE).sum()) < 140


def test_no_tokens():
    assert ThreeState().structured(**table([])).shape == random_of(table([])).shape == (0,)


@pytest.mark.parametrize("wrong", [
    {"encode": 0.0}, {"decode": 0.0}, {"encode": 0.6}, {"decode": 0.95}, {"encode": -0.1},
])  # fmt: skip
def test_wrong_shares(wrong):
    with pytest.raises(AmodalError, match="encode and decode are shares"):
        ThreeState(**wrong)
