"""Blocks of I-JEPA: shapes, limits, and nothing of the batch that matters but the row's seed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amodal.core import AmodalError
from amodal.masking.multiblock import Multiblock
from tests.masking.test_masks import SIZES, tokens


def pictures(count, height, width):
    group, seed, order, _ = tokens([height * width] * count)
    return group, seed, order, tokens([height * width] * count, width=width)[3]


@settings(deadline=None, max_examples=40)
@given(sizes=SIZES, seed=st.integers(0, 10_000), width=st.integers(1, 7), data=st.data())
def test_blocks_depend_on_their_own_row_only(sizes, seed, width, data):
    group, seeds, order, position = tokens(sizes, width)
    drawn = Multiblock().draw(group, seeds, order, position)
    whole = torch.stack([drawn[0], *drawn[1]], 1)
    shuffled = torch.randperm(len(group), generator=torch.Generator().manual_seed(seed))
    context, targets = Multiblock().draw(
        (-3 * group)[shuffled], seeds[shuffled], order[shuffled], position[shuffled]
    )
    assert torch.equal(torch.stack([context, *targets], 1), whole[shuffled])
    chosen = data.draw(st.sets(st.sampled_from(range(len(sizes))), min_size=1))
    part = torch.isin(group, torch.tensor(sorted(chosen)) * 7 + 3)
    context, targets = Multiblock().draw(group[part], seeds[part], order[part], position[part])
    assert torch.equal(torch.stack([context, *targets], 1), whole[part])


@settings(deadline=None, max_examples=60)
@given(
    sizes=SIZES,
    width=st.integers(1, 7),
    low=st.floats(0.01, 1),
    high=st.floats(0, 1),
    least=st.integers(1, 20),
)
def test_context_and_targets_are_apart_and_neither_is_all(sizes, width, low, high, least):
    scale = (low, low + high * (1 - low))
    blocks = Multiblock(blocks=3, scale=scale, context=(0.3, 1.0), least=least)
    group, seed, order, position = tokens(sizes, width)
    context, targets = blocks.draw(group, seed, order, position)
    target = torch.stack(targets).any(0)
    assert len(targets) == 3 and not (context & target).any()
    for bag, size in enumerate(sizes):
        at = group == bag * 7 + 3
        assert int(context[at].sum()) >= min(least, max(1, size // 4))
        if size == 1:
            assert not target[at].any()
        elif size > 2 and scale[1] <= 0.5:
            assert target[at].any()


def test_targets_are_rectangles_of_the_papers_sizes():
    count = 400
    context, targets = Multiblock().draw(*pictures(count, 14, 14))
    sides = []
    for target in targets:
        for mask in target.view(count, 14, 14):
            rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
            height, width = (int(v.max() - v.min() + 1) for v in (rows, columns))
            assert int(mask.sum()) == height * width
            sides.append((height, width))
    areas = torch.tensor([h * w for h, w in sides]) / 196
    assert 0.12 < areas.min() and areas.max() < 0.24 and abs(areas.mean() - 0.175) < 0.005
    ratios = torch.tensor([h / w for h, w in sides])
    assert 0.6 < ratios.min() < 0.9 and 1.3 < ratios.max() < 1.9
    assert len(set(sides)) > 6
    covered = torch.stack(targets).view(4, count, 14, 14).double().mean((0, 1))
    # a corner is in few of the places that a block can have, and in some
    assert 0.005 < covered[0, 0] < 0.1 and 0.005 < covered[13, 13] < 0.1 and covered[7, 7] > 0.2
    left = context.view(count, -1).sum(1)
    assert left.min() >= 10 and 0.35 < left.double().mean() / 196 < 0.6
    # without targets the context block is a square
    alone = Multiblock(blocks=1, scale=(0.01, 0.01)).draw(*pictures(count, 14, 14))[0]
    heights = alone.view(count, 14, 14).any(2).sum(1)
    assert heights.min() == 13 and heights.max() == 14


def test_a_long_grid_has_blocks_of_the_same_area():
    group, seed, order, position = pictures(200, 4, 40)
    (target,) = Multiblock(blocks=1, scale=(0.5, 0.5)).draw(group, seed, order, position)[1]
    assert set(target.view(200, -1).sum(1).tolist()) == {80}
    turned = position[:, [0, 2, 1]]
    (target,) = Multiblock(blocks=1, scale=(0.5, 0.5)).draw(group, seed, order, turned)[1]
    assert set(target.view(200, -1).sum(1).tolist()) == {80}


def test_lines_have_stretches():
    group, seed, order, _ = tokens([40] * 100)
    position = torch.stack([order, order * 0, order * 0], 1).float()
    target = Multiblock().draw(group, seed, order, position)[1][0].view(100, 40)
    assert set(target.sum(1).tolist()) <= {6, 7, 8}
    steps = (target[:, 1:] != target[:, :-1]).sum(1)
    assert steps.max() <= 2
    # events at irregular times, whose second coordinate is their number, are a line too
    events = torch.stack([order.float() ** 2, order.float(), order * 0.0], 1)
    assert torch.equal(Multiblock().draw(group, seed, order, events)[1][0].view(100, 40), target)


def test_spectrograms_are_grids_and_frames_of_a_video_go_together():
    group, seed, order, position = pictures(50, 6, 6)
    flat = torch.stack([position[:, 1], position[:, 2], position[:, 0]], 1)  # time and frequency
    expected = Multiblock().draw(group, seed, order, position)
    found = Multiblock().draw(group, seed, order, flat * 16 + 3)
    assert torch.equal(expected[0], found[0])
    assert all(torch.equal(a, b) for a, b in zip(expected[1], found[1]))
    frames = 3
    video = position.repeat(frames, 1)
    video[:, 0] = torch.arange(frames).repeat_interleave(len(position))
    number = torch.cat([order + 36 * f for f in range(frames)])
    context, targets = Multiblock().draw(group.repeat(frames), seed.repeat(frames), number, video)
    for mask in (context, *targets):
        assert (mask.view(frames, -1) == mask[: len(position)]).all()


def test_no_tokens():
    context, targets = Multiblock(blocks=2).draw(*tokens([]))
    assert [m.shape for m in (context, *targets)] == [(0,)] * 3


@pytest.mark.parametrize("wrong, message", [
    ({"scale": (0.0, 0.2)}, "scale_low and scale_high are shares"),
    ({"scale": (0.3, 0.2)}, "the low one first"),
    ({"context": (0.5, 1.1)}, "context_low and context_high"),
    ({"aspect": (2.0, 1.0)}, "two ratios above 0"),
    ({"aspect": (0.0, 1.0)}, "two ratios above 0"),
    ({"blocks": 0}, "blocks is at least 1"),
    ({"least": 0}, "least is at least 1"),
])  # fmt: skip
def test_wrong_numbers(wrong, message):
    with pytest.raises(AmodalError, match=message):
        Multiblock(**wrong)
