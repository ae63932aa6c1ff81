"""Soft masks against the formula, list by list."""

import pytest
import torch

from amodal.core import row_seeds
from amodal.masking.soft import one_map, soft_mask

MAPS = torch.tensor(
    [[0.0, 3.0, 1.0, 9.0], [2.0, 2.0, 9.0, 9.0], [5.0, 1.0, 3.0, 2.0], [7.0, 9.0, 9.0, 9.0]]
)
LENGTHS = torch.tensor([3, 2, 4, 0])


def test_each_list_is_stretched_by_itself_and_what_is_beyond_it_does_not_count():
    expected = []
    for row, n in zip(MAPS.tolist(), LENGTHS.tolist()):
        own = row[:n]
        expected += [
            1 - (v - min(own)) / (max(own) - min(own)) if max(own) > min(own) else 1.0 for v in own
        ]
    torch.testing.assert_close(soft_mask(MAPS, LENGTHS), torch.tensor(expected))


def test_hard_removes_the_peak_and_soft_turns_the_same_tokens_down():
    hard, soft = soft_mask(MAPS, LENGTHS, hard=0.5), soft_mask(MAPS, LENGTHS)
    assert hard.tolist() == [1, 0, 1, 1, 1, 0, 1, 1, 1]
    assert torch.equal(hard == 0, soft < 0.5)


def test_no_list_and_errors():
    assert not len(soft_mask(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)))
    assert not len(soft_mask(torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(ValueError, match="hard"):
        soft_mask(MAPS, LENGTHS, hard=1.0)
    with pytest.raises(ValueError, match="fit"):
        soft_mask(MAPS, LENGTHS + 4)


def test_one_of_the_words_is_drawn_by_the_seed():
    maps = torch.arange(4.0)[None, :, None].expand(200, 4, 3)
    seeds = row_seeds([str(i) for i in range(200)])
    lengths = torch.arange(200) % 4 + 1
    drawn = one_map(maps, lengths, seeds)[:, 0].long()
    assert (drawn < lengths).all() and torch.equal(
        drawn, one_map(maps, lengths, seeds)[:, 0].long()
    )
    assert torch.bincount(drawn[lengths == 4], minlength=4).min() > 3
    assert one_map(maps[:0], lengths[:0], seeds[:0]).shape == (0, 3)
