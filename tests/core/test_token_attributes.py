"""What rides beside the positions of tokens."""

import pytest
import torch

from amodal.core import Tokens
from amodal.core.tokens import DATE, GROUP
from amodal.nn.stacked import stack, unstack


def tokens(name, lengths, **attributes):
    rows = torch.arange(len(lengths))
    count = sum(lengths)
    position = torch.arange(3.0 * count).view(count, 3)
    lengths = torch.tensor(lengths)
    return Tokens.of(
        torch.arange(count)[:, None].float(), rows, lengths, position, name, len(rows), attributes
    )


def test_tokens_without_attributes_have_none():
    a = tokens("a", [2, 1])
    assert a.attributes == {} and Tokens.join([a, a.renamed("b")]).attributes == {}


def test_every_token_has_one():
    with pytest.raises(ValueError, match="3 tokens, 2 of the attribute date"):
        tokens("a", [2, 1], date=torch.zeros(2))


def test_they_follow_their_tokens():
    a = tokens("a", [2, 1, 2], date=torch.arange(5.0), group=torch.arange(5))
    for part in (a.at(torch.tensor([0, 3])), a.keep(torch.tensor([1, 0, 0, 1, 0]).bool())):
        assert part.attributes[DATE].tolist() == part.x[:, 0].tolist() == [0, 3]
        assert part.attributes[GROUP].tolist() == [0, 3]
    for same in (a.renamed("b"), a.skeleton(), a.with_x(a.x + 1)):
        assert same.attributes[DATE].tolist() == [0, 1, 2, 3, 4]


def test_joined_with_tokens_that_have_none():
    a = tokens("a", [2, 0, 1], date=torch.tensor([5.0, 6, 7]))
    b = tokens("b", [1, 2, 0], group=torch.tensor([3, 4, 5]))
    whole = Tokens.join([a, b])
    assert whole.row.tolist() == [0, 0, 0, 1, 1, 2]
    date = whole.attributes[DATE]
    assert date.nan_to_num(nan=-9).tolist() == [5, 6, -9, -9, -9, 7]
    assert whole.attributes[GROUP].tolist() == [-1, -1, 3, 4, 5, -1]
    assert whole.only("b").attributes[GROUP].tolist() == [3, 4, 5]


def test_stacked_side_by_side():
    a = tokens("a", [2, 1], date=torch.tensor([5.0, 6, 7]))
    b = tokens("b", [1, 1])
    whole = stack([a, b])
    assert whole.attributes[DATE].nan_to_num(nan=-9).tolist() == [5, 6, 7, -9, -9]
    first, second = unstack(whole, [a, b])
    assert first.attributes[DATE].tolist() == [5, 6, 7] and not second.attributes
