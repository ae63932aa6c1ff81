"""Names of records and the search among them, against enumeration."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from amodal.core import Ragged
from amodal.nn.generation.identifiers import (
    IdentifierWriter,
    atomic,
    clustered,
    numeric,
    scattered,
    tokens_of,
)
from amodal.nn.generation.trie import Trie, trie_search

CODES = torch.tensor([[0, 3, -1], [0, 2, 1], [1, -1, -1], [0, 2, 4], [2, 2, 2]])


def table_step(seed):
    """log p(next | all before), different for each prefix and row."""

    def log_p(row, prefix):
        g = torch.Generator().manual_seed(hash((seed, row, tuple(prefix))) % 2**31)
        return torch.randn(5, generator=g).log_softmax(0)

    return lambda tokens, owner, parent: torch.stack(
        [log_p(r, t) for t, r in zip(tokens.tolist(), owner.tolist())]
    )


def reference(step, row):
    """Of each identifier the sum of log p along its tokens."""
    sums = []
    for code in CODES.tolist():
        code, total = [t for t in code if t >= 0], 0.0
        for i, token in enumerate(code):
            total += float(
                step(
                    torch.tensor([code[:i]], dtype=torch.int64).view(1, i),
                    torch.tensor([row]),
                    None,
                )[0, token]
            )
        sums.append(total)
    return torch.tensor(sums)


def test_with_enough_beams_the_order_is_that_of_all_identifiers():
    step = table_step(0)
    found, score = trie_search(step, Trie(CODES), 3, beams=7)
    for row in range(3):
        sums = reference(step, row)
        assert found[row, :5].tolist() == sums.argsort(descending=True).tolist() and found[
            row, 5:
        ].tolist() == [-1, -1]
        torch.testing.assert_close(score[row, :5], sums.sort(descending=True).values)


def test_few_beams_keep_the_best_beginnings():
    """Greedy: at each node the likeliest child, by hand."""
    step = table_step(3)
    found, score = trie_search(step, Trie(CODES), 4, beams=1)
    for row in range(4):
        prefix = []
        while not any(prefix == [t for t in c if t >= 0] for c in CODES.tolist()):
            nexts = {c[len(prefix)] for c in CODES.tolist() if c[: len(prefix)] == prefix}
            log_p = step(
                torch.tensor([prefix], dtype=torch.int64).view(1, len(prefix)),
                torch.tensor([row]),
                None,
            )[0]
            prefix = [*prefix, max(nexts, key=lambda t: float(log_p[t]))]
        assert [t for t in CODES[found[row, 0]].tolist() if t >= 0] == prefix
        torch.testing.assert_close(score[row, 0], reference(step, row)[found[row, 0]])


@pytest.mark.parametrize(
    "codes", [[[0, 1], [0, 1]], [[0, -1], [0, 1]], [[0, 1], [0, -1]], [[-1, -1]]]
)
def test_ambiguous_identifiers_are_rejected(codes):
    with pytest.raises(ValueError, match="identifier"):
        Trie(torch.tensor(codes))


def test_nothing_to_find():
    found, score = trie_search(table_step(0), Trie(CODES[:0]), 2, beams=2)
    assert found.eq(-1).all() and score.eq(-torch.inf).all()
    assert trie_search(table_step(0), Trie(CODES), 0, beams=2)[0].shape == (0, 2)


@pytest.mark.parametrize("count", [1, 2, 10, 11, 100, 137])
def test_digits_and_numbers(count):
    assert atomic(count)[:, 0].tolist() == list(range(count))
    digits = numeric(count, 10)
    assert [int("".join(map(str, row))) for row in digits.tolist()] == list(range(count))
    drawn = scattered(count, 10)
    assert (
        drawn.shape == digits.shape
        and len(Trie(drawn)) == count
        and 0 <= drawn.min()
        and drawn.max() < 10
    )


@pytest.mark.parametrize(
    "n, branch, leaf, levels", [(200, 4, 5, 5), (64, 2, 1, 7), (1, 3, 4, 1), (40, 3, 40, 1)]
)
def test_paths_are_unique_and_within_their_levels(n, branch, leaf, levels):
    codes = clustered(
        torch.randn(n, 6, generator=torch.Generator().manual_seed(0)), branch, leaf, levels
    )
    assert codes.shape == (n, levels) and len(Trie(codes)) == n
    level = torch.arange(levels) * max(branch, leaf)
    assert ((codes < 0) | ((codes >= level) & (codes < level + max(branch, leaf)))).all()
    assert codes.max() < tokens_of("structured", branch=branch, leaf=leaf, levels=levels, most=n)


def test_what_is_alike_shares_its_beginning():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    own = torch.arange(30) % 3
    x = centres[own] + 0.1 * torch.randn(30, 2, generator=torch.Generator().manual_seed(1))
    codes = clustered(x, 3, 10, 3)
    assert (
        len({(int(o), int(c)) for o, c in zip(own, codes[:, 0])}) == 3 and (codes[:, 2] == -1).all()
    )


def test_rows_that_are_equal_get_names_all_the_same():
    codes = clustered(torch.zeros(33, 4), 4, 3, 3)
    assert len(Trie(codes)) == 33
    with pytest.raises(ValueError, match="cannot name"):
        clustered(torch.zeros(33, 4), 4, 3, 2)


def test_the_writer_s_loss_is_what_its_search_adds_up():
    torch.manual_seed(0)
    writer = IdentifierWriter(8, 5, depth=1, heads=2).eval()
    read = Ragged(torch.randn(9, 8), torch.tensor([2, 3, 1, 1, 2]))
    total, count = writer(read, CODES).T
    assert count.tolist() == [2, 3, 1, 3, 3]
    found, score = writer.find(read, Trie(CODES), beams=5)
    for row in range(5):
        at = found[row].tolist().index(row)
        torch.testing.assert_close(-score[row, at], total[row].detach())
    alone = writer.decoder(
        [read[torch.tensor([2])]], Ragged(torch.zeros(0, 8), torch.tensor([0]))
    ).flat
    torch.testing.assert_close(total[2], cross_entropy(writer.out(alone), torch.tensor([1])))
