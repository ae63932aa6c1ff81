"""Tubes: whole places are hidden, a share of each bag's, whatever else is in the batch."""

import torch

from amodal.masking.random import random_keep
from amodal.masking.tube import tube_keep


def video(times, side):
    t, y, x = torch.meshgrid(
        torch.arange(times), torch.arange(side), torch.arange(side), indexing="ij"
    )
    return torch.stack([t, y, x], -1).view(-1, 3).double()


def test_a_place_is_seen_at_all_times_or_at_none():
    clips = [video(5, 4), video(3, 4), video(4, 2)]
    group = torch.repeat_interleave(torch.tensor([7, 2, 9]), torch.tensor([len(c) for c in clips]))
    position, order = torch.cat(clips), torch.cat([torch.arange(len(c)) for c in clips])
    keep = tube_keep(group, group * 31, order, position, 0.75)
    for g, clip in zip((7, 2, 9), clips):
        own, seen = position[group == g], keep[group == g]
        places = {}
        for (_, y, x), s in zip(own.tolist(), seen.tolist()):
            places.setdefault((y, x), set()).add(s)
        assert all(len(s) == 1 for s in places.values())
        assert sum(s == {True} for s in places.values()) == round(len(places) / 4)
        alone = tube_keep(
            group[group == g], (group * 31)[group == g], order[group == g], clip, 0.75
        )
        assert torch.equal(alone, seen), "of a bag alone as among others"


def test_one_frame_at_least_and_no_tubes_without_places():
    position = video(6, 1)
    group, order = torch.zeros(6, dtype=torch.int64), torch.arange(6)
    assert torch.equal(
        tube_keep(group, group, order, position, 0.5), random_keep(group, group, order, 0.5)
    )
    one = video(2, 3)
    group, order = torch.zeros(18, dtype=torch.int64), torch.arange(18)
    assert tube_keep(group, group, order, one, 0.99).sum() == 2
    assert not torch.equal(
        tube_keep(group, group, order, one, 0.5), tube_keep(group, group + 1, order, one, 0.5)
    )
    assert len(tube_keep(group[:0], group[:0], order[:0], one[:0], 0.5)) == 0
