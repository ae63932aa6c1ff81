"""Dropout in the trunks of encoders and in models of a library."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import amodal
from amodal.core import AmodalError, Column, Ragged, Tokens, field_of, view_of
from amodal.modalities import make
from amodal.nn.backbones.body import Body
from amodal.nn.backbones.pretrained import Backbone
from amodal.nn.drop_path import drop_paths
from amodal.nn.hidden_dropout import (
    SeededDropout,
    dropout_of,
    hidden_dropout,
    identity,
    rows_of_values,
    seed_dropout,
)
from amodal.nn.transformer import Transformer
from tests.methods.bench import batch, exact, fields

FIELDS = ("words", "facts")


def bag_of(lengths, width=24):
    count = sum(lengths)
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(0)).double()
    rows, lengths = torch.arange(len(lengths)), torch.tensor(lengths)
    return Tokens.of(x, rows, lengths, torch.zeros(count, 3), "words", len(rows))


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    return Transformer(24, 2, 4).double()


def test_entries_fall_out_one_by_one_and_means_stay(trunk):
    tokens, seeds = bag_of([3] * 200), torch.arange(200) * 7919
    with hidden_dropout(0.25, seeds):
        drop = dropout_of(trunk, tokens, None)
        backwards = dropout_of(trunk, tokens, torch.arange(599, -1, -1))
    ones = torch.ones(600, 24).double()
    scaled = [drop(ones, place) for place in range(3)]
    for one in scaled:
        assert one.unique().tolist() == pytest.approx([0, 4 / 3])
        assert float((one == 0).double().mean()) == pytest.approx(0.25, abs=0.02)
        # neither tokens, nor columns, nor rows fall out together
        for way in (one.mean(0), one.mean(1), one.view(200, 72).mean(1)):
            assert float(way.min()) > 0.3
    both = ((scaled[0] == 0) & (scaled[1] == 0)).double().mean()
    assert float(both) == pytest.approx(0.0625, abs=0.01)  # places draw apart
    torch.testing.assert_close(backwards(ones, 1), scaled[1].flip(0))


def test_a_row_drops_the_same_in_any_company_and_order(trunk):
    tokens, seeds = bag_of([3, 5, 1, 5, 2]), torch.tensor([5, -3, 9, 2, 7])
    with hidden_dropout(0.5, seeds):
        whole = trunk(tokens)
    keep = (tokens.row >= 1) & (tokens.row < 4)
    part = tokens.keep(keep)
    part = replace(part, row=part.row - 1, size=3)
    with hidden_dropout(0.5, seeds[1:4]):
        torch.testing.assert_close(trunk(part).x, whole.x[keep])
        hooked = trunk(part, block_hook=lambda i, inner, block: block(inner))
        torch.testing.assert_close(hooked.x, whole.x[keep])
    assert not torch.isclose(whole.x, trunk(tokens).x).any(1).all()


def test_dropout_comes_before_drop_path(trunk):
    tokens, seeds = bag_of([2] * 60), torch.arange(60)
    with hidden_dropout(0.4, seeds), drop_paths(0.5, seeds):
        both = trunk(tokens).x
    with hidden_dropout(0.4, seeds):
        one = trunk(tokens).x
    same = torch.isclose(both, one).all(1).view(60, 2)
    # rows that skip nothing are scaled all the same; those that skip both halves of the last block
    # differ too
    assert not same.any() and both.isfinite().all()


@pytest.mark.parametrize("kind", ["separate", "shared", "joint"])
def test_views_draw_for_themselves_side_by_side_as_alone(kind):
    torch.manual_seed(0)
    encoder = exact(amodal.Encoder(fields(FIELDS), size="nano", trunk=kind, pool="cls"))
    seen = exact(batch(("plain", "plain"), size=9, sources=FIELDS))
    views = {view: [s for s in seen.columns if view_of(s) == view] for view in (1, 2)}
    with hidden_dropout(0.3, seen.seeds):
        together = encoder(seen)
        for names in views.values():
            alone = encoder(replace(seen, columns={n: seen.columns[n] for n in names}))
            for name in names:
                torch.testing.assert_close(together[name].values, alone[name].values)
    for field in {field_of(s) for s in seen.columns}:
        one, two = together.pair(f"{field}:1", f"{field}:2")
        assert not torch.isclose(one, two).all(1).any()


def test_nothing_falls_out_of_a_teacher_and_outside(trunk):
    tokens, seeds = bag_of([3, 2]), torch.tensor([1, 2])
    plain = trunk(tokens).x
    with hidden_dropout(0.0, seeds):
        assert dropout_of(trunk, tokens, None) is identity
    with hidden_dropout(0.5, seeds):
        assert not torch.equal(trunk(tokens).x, plain)
        with hidden_dropout(0.0, seeds):
            assert torch.equal(trunk(tokens).x, plain)
        trunk.requires_grad_(False)
        assert torch.equal(trunk(tokens).x, plain)
    trunk.requires_grad_(True)
    assert torch.equal(trunk(tokens).x, plain)


def test_wrong_rates_and_rows(trunk):
    for rate in (1.0, -0.1):
        with pytest.raises(AmodalError, match="below 1"), hidden_dropout(rate, torch.arange(2)):
            pass
    with hidden_dropout(0.5, torch.arange(3)), pytest.raises(AmodalError, match="one sequence"):
        trunk(bag_of([1, 1]))


class Padded(Body):
    """A model of a library that pads, with dropout inside."""

    width = 6

    def __init__(self):
        super().__init__()
        self.table, self.inside = nn.Embedding(300, 6), nn.Sequential(nn.Dropout(0.0), nn.Tanh())

    def example(self):
        return Ragged(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))

    def forward(self, texts):
        padded = nn.utils.rnn.pad_sequence(list(texts.split()), batch_first=True)
        hidden = self.inside(self.table(padded))
        keep = torch.arange(padded.shape[1]) < texts.lengths[:, None]
        return hidden[keep], texts.lengths, torch.zeros(int(keep.sum()), 3)


def texts(*lengths, first=0):
    ids = torch.arange(first, first + sum(lengths)) % 300
    return Ragged(ids, torch.tensor(lengths, dtype=torch.int64))


def test_a_model_of_a_library_drops_by_row_whatever_the_padding():
    torch.manual_seed(0)
    tower = Backbone(Padded(), "padded", 8, modality=make("text"), frozen=False)
    assert tower.let_dropout() == 1 and tower.let_dropout() == 1
    seeds, rows = torch.tensor([4, 8, 15, 16]), torch.tensor([0, 1, 3])
    column = Column(texts(2, 3, 7), rows)
    plain = tower(column, "words", 4).x
    with hidden_dropout(0.5, seeds):
        whole = tower(column, "words:1", 4).x
        other = tower(column, "words:2", 4).x
        part = tower(Column(texts(3, first=2), torch.tensor([1])), "words:1", 4).x
        none = tower(Column(texts(), torch.tensor([], dtype=torch.int64)), "words:1", 4)
    torch.testing.assert_close(part, whole[2:5])
    assert not torch.equal(whole, plain) and not torch.equal(whole, other)
    assert torch.equal(tower(column, "words:1", 4).x, plain)
    assert len(none) == 0 and none.x.requires_grad


def test_a_library_s_dropout_has_the_share_that_is_asked_for_and_draws_by_layer():
    one, two = SeededDropout(0), SeededDropout(1)
    x, seeds = torch.ones(300, 4, 5), torch.arange(300)
    with hidden_dropout(0.2, seeds), rows_of_values(seeds, "words"):
        a, b = one(x), two(x)
        with pytest.raises(AmodalError, match="of words sees 7 entries for 300 records"):
            one(x[:7])
    assert a.unique().tolist() == pytest.approx([0, 1.25])
    assert float((a == 0).float().mean()) == pytest.approx(0.2, abs=0.02)
    assert float(((a == 0) & (b == 0)).float().mean()) == pytest.approx(0.04, abs=0.015)
    for way in (a.mean((0, 1)), a.mean((0, 2)), a.mean((1, 2))):
        assert float(way.min()) > 0.3
    assert torch.equal(one(x), x)
    assert seed_dropout(nn.Linear(2, 2)) == 0
