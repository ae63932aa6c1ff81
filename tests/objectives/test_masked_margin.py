"""masked_margin_softmax against the sums of its definition, and against InfoNCE where they are the
same."""

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.info_nce import info_nce
from amodal.objectives.masked_margin import masked_margin_softmax


def reference(a, b, groups, margin, temperature):
    s = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    total = 0
    for i in range(len(s)):
        own = (s[i, i] - margin).exp()
        negatives = [
            j
            for j in range(len(s))
            if j != i and (groups is None or groups[j] < 0 or groups[j] != groups[i])
        ]
        for way in ([s[i, j] for j in negatives], [s[j, i] for j in negatives]):
            total = total - (own / (own + sum(x.exp() for x in way))).log() / len(s)
    return total


@pytest.mark.parametrize("groups", [None, [0, 1, 0, -1, -1, 1, 2]])
def test_it_is_the_sum_of_its_definition(pair, same, groups):
    group = None if groups is None else torch.tensor(groups)
    options = {"margin": 0.3, "temperature": 0.2}
    same(
        lambda a, b: masked_margin_softmax(a, b, group_N=group, **options),
        lambda a, b: reference(a, b, groups, **options),
        pair(7, 4),
    )


def test_without_a_margin_and_groups_it_is_info_nce_twice(pair):
    a, b = pair(6, 5)
    twice = 2 * info_nce(a, b, temperature=0.1)
    torch.testing.assert_close(masked_margin_softmax(a, b, margin=0.0, temperature=0.1), twice)


def test_a_row_whose_others_are_all_of_its_item_has_nothing_to_beat(pair):
    a, b = pair(4, 3)
    loss = masked_margin_softmax(a, b, group_N=torch.zeros(4, dtype=torch.int64))
    assert loss == 0
    loss.backward()
    assert a.grad.isfinite().all() and masked_margin_softmax(a[:1], b[:1]) == 0


def test_bad_groups_and_temperature(pair):
    with pytest.raises(ValueError, match="group"):
        masked_margin_softmax(*pair(4, 3), group_N=torch.zeros(3))
    with pytest.raises(ValueError, match="temperature"):
        masked_margin_softmax(*pair(4, 3), temperature=0.0)
