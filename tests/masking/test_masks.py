"""Counts, limits, shape statistics, and what all masks share: nothing of the batch matters but the
row's seed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.masking.block import block_mask
from amodal.masking.random import random_keep
from amodal.masking.span import span_mask


def tokens(sizes, width=5):
    """group, seed, order, position of bags of the given sizes, laid on a grid of `width` columns."""
    sizes = torch.tensor(sizes, dtype=torch.long)
    bag = torch.arange(len(sizes)).repeat_interleave(sizes)
    order = torch.cat(
        [torch.arange(n) for n in sizes.tolist()] or [torch.zeros(0, dtype=torch.long)]
    )
    position = torch.stack([order * 0, order // width, order % width], 1).float()
    return bag * 7 + 3, bag * 1000 + 17, order, position


MASKS = {
    "random": lambda g, s, o, p: random_keep(g, s, o, 0.6),
    "random, ratio per token": lambda g, s, o, p: random_keep(g, s, o, (s % 5).double() / 5),
    "span": lambda g, s, o, p: span_mask(g, s, o, start=0.1, length=4),
    "rare spans": lambda g, s, o, p: span_mask(g, s, o, start=0.001, length=3),
    "block": lambda g, s, o, p: block_mask(g, s, p, ratio=0.5),
    "block 0.9": lambda g, s, o, p: block_mask(g, s, p, ratio=0.9),
}
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=8)


@pytest.mark.parametrize("name", MASKS)
@settings(deadline=None, max_examples=25)
@given(sizes=SIZES, seed=st.integers(0, 10_000), data=st.data())
def test_a_mask_depends_on_its_own_row_only(name, sizes, seed, data):
    group, seeds, order, position = tokens(sizes)
    whole = MASKS[name](group, seeds, order, position)
    # tokens in any order, other names for the groups, each of them dense or not
    shuffled = torch.randperm(len(group), generator=torch.Generator().manual_seed(seed))
    other = MASKS[name](
        (-3 * group)[shuffled], seeds[shuffled], order[shuffled], position[shuffled]
    )
    assert torch.equal(other, whole[shuffled])
    # a micro-batch: any subset of the bags
    chosen = data.draw(st.sets(st.sampled_from(range(len(sizes))), min_size=1))
    part = torch.isin(group, torch.tensor(sorted(chosen)) * 7 + 3)
    alone = MASKS[name](group[part], seeds[part], order[part], position[part])
    assert torch.equal(alone, whole[part])


@pytest.mark.parametrize("name", MASKS)
def test_no_tokens(name):
    empty = MASKS[name](*tokens([]))
    assert empty.shape == (0,) and empty.dtype == torch.bool


@settings(deadline=None, max_examples=50)
@given(sizes=SIZES, ratio=st.floats(0, 1))
def test_random_keeps_an_exact_number(sizes, ratio):
    group, seed, order, _ = tokens(sizes)
    visible = random_keep(group, seed, order, ratio)
    as_tensor = random_keep(group, seed, order, torch.full(group.shape, ratio, dtype=torch.float64))
    assert torch.equal(visible, as_tensor)
    for bag, size in enumerate(sizes):
        count = int(visible[group == bag * 7 + 3].sum())
        assert count >= 1 and (abs(count - size * (1 - ratio)) <= 0.5 + 1e-6 or count == 1)


def test_random_is_uniform_over_tokens():
    group, seed, order, _ = tokens([16] * 4000)
    share = random_keep(group, seed, order, 0.75).view(4000, 16).double().mean(0)
    assert (share - 0.25).abs().max() < 4.5 * (0.25 * 0.75 / 4000) ** 0.5
    together = random_keep(group, seed, order, 0.75).view(4000, 16)
    both = (together[:, :1] & together[:, 1:]).double().mean()
    assert abs(both - 4 * 3 / (16 * 15)) < 0.01


def test_random_with_another_seed_differs():
    group, seed, order, _ = tokens([64])
    assert not torch.equal(
        random_keep(group, seed, order, 0.5), random_keep(group, seed + 1, order, 0.5)
    )


@pytest.mark.parametrize("hide", [
    lambda g, s, o, p, x: span_mask(g, s, o, start=x, length=3),
    lambda g, s, o, p, x: block_mask(g, s, p, ratio=x),
])  # fmt: skip
@settings(deadline=None, max_examples=40)
@given(sizes=SIZES, amount=st.floats(0, 1))
def test_something_hidden_and_something_visible(hide, sizes, amount):
    group, seed, order, position = tokens(sizes)
    hidden = hide(group, seed, order, position, amount)
    for bag, size in enumerate(sizes):
        count = int(hidden[group == bag * 7 + 3].sum())
        assert count == 0 if size == 1 else 1 <= count <= size - 1


def test_span_statistics_and_shape():
    group, seed, order, _ = tokens([500] * 200)
    hidden = span_mask(group, seed, order, start=0.065, length=10).view(200, 500)
    assert abs(hidden[:, 9:].double().mean() - (1 - 0.935**10)) < 0.01
    # every run that begins and ends inside the sequence is at least one span long
    for row in hidden[:20].tolist():
        runs = "".join("#" if h else "." for h in row).strip("#").split(".")
        assert all(len(run) >= 10 for run in runs if run)


def test_block_hides_exactly_its_share_in_blocks():
    group, seed, order, position = tokens([196] * 300, width=14)
    hidden = block_mask(group, seed, position, ratio=0.4).view(300, 14, 14)
    assert (hidden.sum((1, 2)) == 78).all()
    scattered = (~random_keep(group, seed, order, 0.4)).view(300, 14, 14)

    def border(mask):  # neighbours of which one is hidden and one is not
        return (mask[:, 1:] ^ mask[:, :-1]).sum() + (mask[:, :, 1:] ^ mask[:, :, :-1]).sum()

    assert border(hidden) < 0.4 * border(scattered)
    share = hidden.double().mean(0)
    assert (
        share.min() > 0.1 and share.max() < 0.8
    )  # corners are hidden too, though less often than the middle


def test_block_does_not_care_for_units_and_makes_tubes():
    group, seed, order, position = tokens([196] * 3, width=14)
    hidden = block_mask(group, seed, position, ratio=0.4)
    assert torch.equal(
        hidden.view(3, 196).sum(1),
        block_mask(group, seed, position * 16, ratio=0.4).view(3, 196).sum(1),
    )
    frames = 4
    video = position.repeat(frames, 1)
    video[:, 0] = torch.arange(frames).repeat_interleave(len(position))
    tubes = block_mask(group.repeat(frames), seed.repeat(frames), video, ratio=0.4).view(frames, -1)
    assert (tubes != tubes[:1]).double().mean() < 0.03


def test_errors():
    group, seed, order, position = tokens([4])
    with pytest.raises(ValueError, match="between 0 and 1"):
        random_keep(group, seed, order, 75)
    with pytest.raises(ValueError, match="between 0 and 1"):
        block_mask(group, seed, position, ratio=1.5)
    with pytest.raises(ValueError, match="y, x"):
        block_mask(group, seed, position[:, :1], ratio=0.5)
    with pytest.raises(ValueError, match="length"):
        span_mask(group, seed, order, start=0.1, length=0)
    with pytest.raises(ValueError, match="'seed_T': 3"):
        random_keep(group, seed[:3], order, 0.5)
