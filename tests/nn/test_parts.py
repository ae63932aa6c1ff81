"""Positions, pools, heads and the decoder."""

import math

import pytest
import torch
from hypothesis import given
from toys import WIDTH, bag_of, lengths, quick, random

from amodal.core import AmodalError, Tokens
from amodal.nn.generation.mask_decoder import MaskDecoder
from amodal.nn.heads.projectors import BatchNorm, Projector, PrototypeHead
from amodal.nn.pooling import POOLS, pool_of, segment_softmax
from amodal.nn.positions import Learned, additive, sincos
from amodal.nn.scale import Scale


def test_sincos_is_sines_and_cosines_of_every_coordinate():
    place = [2.5, 0.0, 7.0]
    got = sincos(torch.tensor([place]), 26)[0]  # 4 wavelengths for each axis, 2 numbers left over
    angles = [x * 1e4 ** (-i / 4) for x in place for i in range(4)]
    want = [math.sin(a) for a in angles] + [math.cos(a) for a in angles] + [0, 0]
    assert got.tolist() == pytest.approx(want, abs=1e-6)
    assert sincos(torch.zeros(0, 3), 26).shape == (0, 26)
    assert (
        sincos(torch.ones(2, 3), 4).tolist() == [[0] * 4] * 2
    )  # too narrow for any: nothing is said


def test_learned_reads_between_entries_and_stops_at_the_ends():
    learned = Learned(8, range=5)
    table = learned.table.detach()
    at = learned(torch.tensor([[1.0, 2, 3], [1.25, 0, 0], [99, -3, 4]]))
    torch.testing.assert_close(at[0], table[0, 1] + table[1, 2] + table[2, 3])
    torch.testing.assert_close(
        at[1], 0.75 * table[0, 1] + 0.25 * table[0, 2] + table[1, 0] + table[2, 0]
    )
    torch.testing.assert_close(at[2], table[0, 4] + table[1, 0] + table[2, 4])
    assert additive("rotary", 8) is None and additive("none", 8) is None
    with pytest.raises(AmodalError, match="Did you mean sincos"):
        additive("sincs", 8)


@pytest.mark.parametrize("name", list(POOLS))
@quick
@given(numbers=lengths)
def test_a_pool_reads_each_row_alone(name, numbers):
    pool, bag = pool_of(name, WIDTH).double(), bag_of(numbers)
    ready = pool.prepare(bag)
    assert ready.lengths().gt(0).tolist() == bag.lengths().gt(0).tolist()
    column = pool(ready)
    assert column.rows.tolist() == [r for r, n in enumerate(numbers) if n]
    for row, value in zip(column.rows, column.values):
        alone = pool(pool.prepare(bag.keep(bag.row == row))).values
        torch.testing.assert_close(value, alone[0], rtol=1e-10, atol=1e-12)


def test_pools_are_what_they_say():
    bag = bag_of([3, 0, 2])
    torch.testing.assert_close(
        pool_of("mean", WIDTH)(bag).values, torch.stack([bag.x[:3].mean(0), bag.x[3:].mean(0)])
    )
    cls = pool_of("cls", WIDTH).double()
    ready = cls.prepare(bag)
    assert ready.lengths().tolist() == [4, 0, 3] and torch.equal(
        ready.first().values, cls.token.expand(2, -1)
    )
    attention = pool_of("attention", WIDTH).double()
    x = attention.norm(bag.x[:3])
    weight = attention.score(x).softmax(0)
    mixed = torch.cat(
        [weight[:, [h]].T @ v for h, v in enumerate(attention.value(x).chunk(4, 1))], 1
    )
    torch.testing.assert_close(attention(bag).values[:1], attention.out(mixed))
    vector = pool_of("vector", WIDTH).double()
    weight_TD = vector.score(bag.x[:3]).softmax(0)
    torch.testing.assert_close(vector(bag).values[0], (weight_TD * bag.x[:3]).sum(0))
    with pytest.raises(AmodalError, match="Did you mean mean"):
        pool_of("maen", WIDTH)


@quick
@given(lengths)
def test_segment_softmax(numbers):
    bag = bag_of(numbers, width=3)
    big = bag.x * 300  # no overflow
    got = segment_softmax(big, bag.row, bag.size)
    want = [part.softmax(0) for part in big.split(numbers)]
    torch.testing.assert_close(got, torch.cat(want))


def decoder():
    torch.manual_seed(0)
    return MaskDecoder(["image", "text"], WIDTH, width=32, depth=2, heads=2).double()


@quick
@given(lengths, lengths)
def test_the_decoder_returns_hidden_bags_in_their_own_order(a, b):
    numbers = list(zip(*[n for n in zip(a, b)]))
    image, text = bag_of(numbers[0]), bag_of(numbers[1], "text", seed=5)
    hide = lambda tokens: (tokens.within() % 2).bool()  # noqa: E731
    seen, hidden = (
        [b.keep(~hide(b)) for b in (image, text)],
        [b.keep(hide(b)) for b in (image, text)],
    )
    model = decoder()
    filled = model(seen, hidden)
    for tokens, out in zip(hidden, filled):
        assert out.names == tokens.names and out.x.shape == (len(tokens), 32)
        assert torch.equal(out.row, tokens.row) and torch.equal(out.position, tokens.position)
    # what is asked for first, and what stood in the hidden tokens, changes nothing
    swapped = model(seen[::-1], [h.with_x(h.x * 0) for h in hidden[::-1]])[::-1]
    for one, other in zip(filled, swapped):
        torch.testing.assert_close(one.x, other.x, rtol=1e-9, atol=1e-10)
    for row in range(image.size):
        alone = model([s.keep(s.row == row) for s in seen], [h.keep(h.row == row) for h in hidden])
        for one, other in zip(filled, alone):
            torch.testing.assert_close(one.x[one.row == row], other.x, rtol=1e-9, atol=1e-10)


def test_the_decoder_distinguishes_hidden_from_visible_by_position_and_field():
    image, model = bag_of([4]), decoder()
    (out,) = model(
        [image.keep(torch.tensor([True, True, False, False]))],
        [image.keep(torch.tensor([False, False, True, True]))],
    )
    assert not torch.allclose(out.x[0], out.x[1])
    views = [
        Tokens(image.x, image.row, image.source, image.position, (f"image:{i}",), image.size)
        for i in (1, 2)
    ]
    assert model(views[:1], views[1:])[0].names == (
        "image:2",
    )  # a view has the mask token of its field


def test_every_part_of_the_decoder_learns_even_from_nothing():
    model = decoder()
    empty = [bag_of([0, 0], n) for n in ("image", "text")]
    sum(out.x.sum() for out in model(empty, empty)).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("last_norm", [False, True])
def test_projector(last_norm):
    head = Projector(WIDTH, 7, hidden=16, layers=3, last_norm=last_norm).double()
    linear = [m for m in head if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(WIDTH, 16), (16, 16), (16, 7)]
    out = head(random(12, WIDTH))
    assert out.shape == (12, 7)
    if last_norm:
        torch.testing.assert_close(out.mean(0), torch.zeros(7, dtype=out.dtype), atol=1e-9, rtol=0)
    for rows in (0, 1):  # a rank may have one row of a source, or none
        assert head(random(rows, WIDTH)).shape == (rows, 7)
    head(random(0, WIDTH)).sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_batch_norm_of_one_row_is_that_of_evaluation():
    norm = BatchNorm(WIDTH).double()
    norm(random(30, WIDTH) * 3 + 1)
    one = random(1, WIDTH, seed=4)
    torch.testing.assert_close(norm.train()(one), norm.eval()(one))


def test_prototype_head_gives_cosines():
    head = PrototypeHead(WIDTH, 9).double()
    x = random(5, WIDTH)
    z, c = head.mlp(x), head.prototypes
    want = torch.stack([torch.cosine_similarity(z, p[None]) for p in c], 1)
    torch.testing.assert_close(head(x), want, rtol=1e-9, atol=1e-9)
    assert head(random(0, WIDTH)).shape == (0, 9)


def test_scale_is_positive_and_bounded():
    scale = Scale(10.0, most=100.0, bias=-10)
    assert scale().item() == pytest.approx(10) and scale.bias.item() == -10
    with torch.no_grad():
        scale.log.fill_(50.0)
    assert scale().item() == pytest.approx(100)
    assert Scale(2.0).bias is None
