"""Whole units are hidden first: how many tokens, which ones, and that a segment's mask depends on
the segment alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.core import AmodalError
from amodal.masking.structured import Units, structured_keep
from tests.golden import naive

SPANS = (2, 3, 4)
"""Bands, dates and places of a segment; each is a kind of units."""
TRIES = 64


def segments(sizes, ratio, chances, first_seed=0):
    """Tokens of segments, each the first ones of a grid of bands, dates and places."""
    sizes = torch.tensor(sizes, dtype=torch.int64)
    segment = torch.arange(len(sizes)).repeat_interleave(sizes)
    order = torch.cat([torch.arange(n) for n in sizes.tolist()] + [sizes[:0]])
    units, stride = [], 1
    for kind, (span, chance) in enumerate(zip(SPANS, chances)):
        code = (order // stride % span + 10 * kind) * 2**40 - 5
        units.append((code, torch.full((len(order),), chance)))
        stride *= span
    shares = torch.tensor([ratio] if isinstance(ratio, float) else ratio).double()
    return {
        "segment_T": segment * 7 + 3,
        "seed_T": segment * 7919 + first_seed - 2**62,
        "order_T": order,
        "units": units,
        "ratio_T": shares[segment % len(shares)],
    }


def mask_of(tokens):
    units = [Units(code, chance) for code, chance in tokens["units"]]
    return structured_keep(**{**tokens, "units": units})


def chosen(tokens, index):
    """Some of the tokens, in another order."""
    one = {name: value[index] for name, value in tokens.items() if name != "units"}
    return one | {"units": [(code[index], chance[index]) for code, chance in tokens["units"]]}


def drawn(tokens, members):
    """Which of the tokens of a segment the units hide."""
    seed = int(tokens["seed_T"][members[0]])
    for attempt in range(TRIES):
        hidden = [
            any(
                naive.uniform(seed, 0, kind, attempt, int(code[i])) < float(chance[i])
                for kind, (code, chance) in enumerate(tokens["units"])
            )
            for i in members
        ]
        if not all(hidden):
            return hidden
    return [False] * len(members)


def share(count, ratio):
    return max(1, round(count * (1 - ratio) + 1e-9))


def expected(tokens):
    """One segment after the other."""
    keep = torch.zeros(len(tokens["segment_T"]), dtype=torch.bool)
    for segment in set(tokens["segment_T"].tolist()):
        members = (tokens["segment_T"] == segment).nonzero()[:, 0].tolist()
        hidden = drawn(tokens, members)
        seed = int(tokens["seed_T"][members[0]])
        ranks = []
        for i, lost in zip(members, hidden):
            value = naive.bits(seed, 1, int(tokens["order_T"][i]))
            ranks.append((lost, value - 2**64 if value >= 2**63 else value, i))
        for *_, i in sorted(ranks)[: share(len(members), float(tokens["ratio_T"][members[0]]))]:
            keep[i] = True
    return keep


SIZES = st.lists(st.integers(1, 24), min_size=1, max_size=6)
RATIOS = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.75, 0.9, 1.0]), min_size=1, max_size=3)
CHANCES = st.tuples(*[st.sampled_from([0.0, 0.25, 0.6, 0.95])] * 3)
LARGE = {"deadline": None, "max_examples": 15}


@settings(**LARGE)
@given(sizes=SIZES, ratios=RATIOS, chances=CHANCES, seed=st.integers(0, 10_000))
def test_as_one_segment_after_the_other(sizes, ratios, chances, seed):
    tokens = segments(sizes, ratios, chances, seed)
    assert torch.equal(mask_of(tokens), expected(tokens))


@settings(**LARGE)
@given(sizes=SIZES, ratios=RATIOS, chances=CHANCES, seed=st.integers(0, 10_000))
def test_how_many_stay_visible(sizes, ratios, chances, seed):
    """However much the units hide."""
    tokens = segments(sizes, ratios, chances, seed)
    keep = mask_of(tokens)
    for number, size in enumerate(sizes):
        own = keep[tokens["segment_T"] == number * 7 + 3]
        assert int(own.sum()) == share(size, ratios[number % len(ratios)])


@settings(**LARGE)
@given(sizes=SIZES, ratios=RATIOS, chances=CHANCES, seed=st.integers(0, 10_000))
def test_units_are_hidden_first(sizes, ratios, chances, seed):
    """None of what a unit hides is seen while something else of the segment is hidden."""
    tokens = segments(sizes, ratios, chances, seed)
    keep = mask_of(tokens)
    for segment in set(tokens["segment_T"].tolist()):
        members = (tokens["segment_T"] == segment).nonzero()[:, 0].tolist()
        hidden = drawn(tokens, members)
        assert not all(hidden)
        spared = [i for i, lost in zip(members, hidden) if lost and keep[i]]
        others = [i for i, lost in zip(members, hidden) if not lost and not keep[i]]
        assert not (spared and others)


@settings(**LARGE)
@given(sizes=SIZES, chances=CHANCES, seed=st.integers(0, 10_000), data=st.data())
def test_a_mask_depends_on_its_segment_only(sizes, chances, seed, data):
    tokens = segments(sizes, [0.3, 0.75], chances, seed)
    whole = mask_of(tokens)
    # tokens in any order, other names for the segments
    index = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    shuffled = chosen(tokens, index)
    shuffled["segment_T"] = -3 * shuffled["segment_T"]
    assert torch.equal(mask_of(shuffled), whole[index])
    # any of the segments
    some = data.draw(st.sets(st.sampled_from(range(len(sizes))), min_size=1))
    part = torch.isin(tokens["segment_T"], torch.tensor(sorted(some)) * 7 + 3).nonzero()[:, 0]
    assert torch.equal(mask_of(chosen(tokens, part)), whole[part])


@pytest.mark.parametrize("kind", range(3))
def test_all_tokens_of_a_unit_share_its_draw(kind):
    """With a ratio of half of the units, and no other kind, what is hidden is whole units."""
    chances = [0.5 if k == kind else 0.0 for k in range(3)]
    for seed in range(20):
        tokens = segments([24], 0.0, chances, seed)
        units = tokens["units"][kind][0].tolist()
        hidden = dict(zip(units, drawn(tokens, range(24))))
        tokens["ratio_T"][:] = sum(hidden[u] for u in units) / 24
        assert mask_of(tokens).tolist() == [not hidden[u] for u in units]


def test_units_are_hidden_as_often_as_they_should_be():
    tokens = segments([24] * 800, 0.0, (0.0, 0.25, 0.0))
    tokens["ratio_T"][:] = 1 / 3  # a third of the tokens, as many as one of three dates has
    date = tokens["order_T"] // SPANS[0] % SPANS[1]
    lost = ~mask_of(tokens)
    whole = [bool(lost[i * 24 : i * 24 + 24][date[:24] == d].all()) for i in range(800)
             for d in range(SPANS[1])]  # fmt: skip
    # P(exactly this date of three is drawn, not all three being drawn), and the rest by chance
    wanted = 0.25 * 0.75**2 / (1 - 0.25**3)
    assert abs(sum(whole) / len(whole) - wanted) < 0.03


@pytest.mark.parametrize("count", [1, 2, 6, 24])
def test_chances_that_would_hide_everything(count):
    """One unit of all tokens is never drawn alone, and what is left is hidden at random."""
    close = 1 - 2**-24  # the last number below 1 in single precision
    tokens = segments([count] * 30, 0.5, (0.0, 0.0, 0.0))
    everything = torch.zeros(count * 30, dtype=torch.int64), torch.full((count * 30,), close)
    without, tokens["units"] = mask_of(tokens | {"units": []}), [everything]
    assert torch.equal(mask_of(tokens), without)
    assert torch.equal(expected(tokens), without)
    tokens["units"] = [(code, torch.full_like(chance, 0.999)) for code, chance in
                       segments([count] * 30, 0.5, (0.0, 0.0, 0.0))["units"]]  # fmt: skip
    assert torch.equal(mask_of(tokens), expected(tokens))
    assert mask_of(tokens).view(30, count).any(1).all()


def test_a_chance_of_none_hides_nothing():
    """Kinds that do not apply to a token, of any code."""
    tokens = segments([24, 7, 1], 0.4, (0.0, 0.0, 0.0))
    assert torch.equal(mask_of(tokens), mask_of(tokens | {"units": []}))


def test_kinds_and_segments_have_draws_of_their_own():
    """Equal codes of two kinds, or of two segments, are hidden apart."""
    tokens = segments([24] * 40, 0.9, (0.5, 0.0, 0.0))
    code, chance = tokens["units"][0]
    nothing = torch.zeros_like(chance)
    first, second = (
        mask_of(tokens | {"units": units})
        for units in ([(code, chance), (code, nothing)], [(code, nothing), (code, chance)])
    )
    assert not torch.equal(first, second)
    assert len({tuple(part.tolist()) for part in first.view(40, 24)}) > 20


def test_no_tokens():
    empty = mask_of(segments([], 0.5, (0.5, 0.5, 0.5)))
    assert empty.shape == (0,) and empty.dtype == torch.bool


@pytest.mark.parametrize("name", ["seed_T", "order_T", "ratio_T"])
def test_unequal_lengths_are_refused(name):
    tokens = segments([4, 2], 0.5, (0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=name.removesuffix("_T")):
        mask_of(tokens | {name: tokens[name][1:]})


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("place", range(2))
def test_units_of_unequal_lengths_are_refused(kind, place):
    tokens = segments([4, 2], 0.5, (0.5, 0.5, 0.5))
    unit = list(tokens["units"][kind])
    unit[place] = unit[place][1:]
    tokens["units"][kind] = tuple(unit)
    with pytest.raises(ValueError):
        mask_of(tokens)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan])
def test_shares_that_are_none_are_refused(ratio):
    tokens = segments([4, 2], 0.5, (0.5, 0.5, 0.5))
    tokens["ratio_T"][3:] = ratio
    with pytest.raises(ValueError, match="ratio"):
        mask_of(tokens)


@pytest.mark.parametrize("chance", [-0.1, 1.0, 1.5, math.nan])
def test_chances_that_are_none_are_refused(chance):
    tokens = segments([4, 2], 0.5, (0.5, 0.5, 0.5))
    tokens["units"][1][1][2] = chance
    with pytest.raises(AmodalError):
        mask_of(tokens)
