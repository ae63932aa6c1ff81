"""Attention on flat tokens is dense masked attention, in value and gradient, for every rule and any
lengths."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toys import WIDTH, bag_of, joined, lengths, quick, random

from amodal.core import AmodalError, Tokens
from amodal.core.embeddings import FUSED
from amodal.nn.attention.cache import KeyValueCache
from amodal.nn.attention.masks import RULES, rule
from amodal.nn.attention.prefix import with_prefix
from amodal.nn.attention.varlen import Attention, attend, layout_of
from amodal.nn.drop_path import drop_of, drop_paths
from amodal.nn.positions import Rotary
from amodal.nn.transformer import Transformer

RULE = pytest.mark.parametrize("mask_rule", list(RULES))


def allowed(tokens, mask_rule):
    """(T, T) bool, [query, key]: in the same row, and the one source may read the other. In words,
    not with tables."""
    names = [tokens.names[s] for s in tokens.source.tolist()]

    def may(a, b):
        if mask_rule == "pure":
            return a == b or a == FUSED
        if mask_rule == "bottleneck":
            return a == b or FUSED in (a, b)
        return True

    sees = torch.tensor([[may(a, b) for b in names] for a in names], dtype=torch.bool).view(
        len(names), len(names)
    )
    return sees & (tokens.row[:, None] == tokens.row)


def dense(q, k, v, mask):
    """softmax(q k' / sqrt d) v over the allowed keys, one head and one matrix at a time."""
    heads = []
    for h in range(q.shape[1]):
        score = (q[:, h] @ k[:, h].T / q.shape[2] ** 0.5).masked_fill(~mask, -torch.inf)
        heads.append(score.softmax(1) @ v[:, h])
    return torch.stack(heads, 1)


def ours(tokens, mask_rule, q, k, v):
    layout = layout_of(tokens, rule(mask_rule))
    return layout.leave(attend(*map(layout.enter, (q, k, v)), layout))


def assert_dense(tokens, mask_rule, heads=2, width=6):
    q, k, v = (random(len(tokens), heads, width, seed=s).requires_grad_() for s in range(3))
    got, want = ours(tokens, mask_rule, q, k, v), dense(q, k, v, allowed(tokens, mask_rule))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    weight = random(*got.shape, seed=9)
    gradients = [
        torch.autograd.grad((x * weight).sum(), (q, k, v), materialize_grads=True)
        for x in (got, want)
    ]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@RULE
@quick
@given(tokens=joined())
def test_flat_is_dense(mask_rule, tokens):
    assert_dense(tokens, mask_rule)


@quick
@given(lengths, lengths)
def test_flat_is_dense_for_one_source_of_any_lengths(first, second):
    assert_dense(bag_of(first + second), "full")


@pytest.mark.parametrize("mask_rule", ["full", "pure"])
def test_flat_is_dense_for_many_distinct_lengths(mask_rule):
    """As many lengths as a batch of texts has, where short rows share calls with longer ones."""
    numbers = torch.randint(0, 60, (40,), generator=torch.Generator().manual_seed(3)).tolist()
    assert_dense(bag_of(numbers), mask_rule)
    others = torch.randint(0, 9, (40,), generator=torch.Generator().manual_seed(4)).tolist()
    fused = [1] * 40
    assert_dense(
        Tokens.join([bag_of(numbers), bag_of(others, "text"), bag_of(fused, FUSED)]), mask_rule
    )


@RULE
@quick
@given(tokens=joined())
def test_groups_cover_every_token_once(mask_rule, tokens):
    layout = layout_of(tokens, rule(mask_rule))
    order = torch.arange(len(tokens)) if layout.order is None else layout.order
    assert sorted(order.tolist()) == list(range(len(tokens)))
    assert sum(g.rows * g.queries for g in layout.groups) == len(tokens)
    assert sum(g.rows * g.keys for g in layout.groups) == (
        0 if layout.keys is None else len(layout.keys)
    )


def in_order(tokens):
    """(T, T) bool, [query, key]: the key stands no later than the query."""
    number = torch.arange(len(tokens))
    return number[:, None] >= number


@RULE
@quick
@given(tokens=joined(), prefix=st.booleans())
def test_rule_order_and_prefix_together(mask_rule, tokens, prefix):
    heads, width, count = 2, 6, 3
    q, k, v = (random(len(tokens), heads, width, seed=s).requires_grad_() for s in range(3))
    layout = layout_of(tokens, rule(mask_rule), causal=True)
    mask = allowed(tokens, mask_rule) & in_order(tokens)
    own, every = [layout.enter(k), layout.enter(v)], [k, v]
    if prefix:
        made = [random(tokens.size, count, heads * width, seed=s) for s in (4, 5)]
        layout = with_prefix(layout, *made)
        split = [p.flatten(0, 1).unflatten(1, (heads, -1)) for p in made]
        theirs = torch.repeat_interleave(torch.arange(tokens.size), count) == tokens.row[:, None]
        mask = torch.cat([theirs, mask], 1)
        own, every = (
            [torch.cat(pair) for pair in zip(own, split)],
            [torch.cat(pair) for pair in zip(split, every)],
        )
    got = layout.leave(attend(layout.enter(q), *own, layout))
    want = dense(q, *every, mask)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    weight = random(*got.shape, seed=9)
    gradients = [
        torch.autograd.grad((x * weight).sum(), (q, k, v), materialize_grads=True)
        for x in (got, want)
    ]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@RULE
@pytest.mark.parametrize(
    "options", [{}, {"rotary": True}, {"kv_heads": 1}, {"kv_heads": 2, "qk_norm": True}]
)
@quick
@given(tokens=joined(), cuts=st.lists(st.integers(0, 6), max_size=3))
def test_with_a_cache_a_trunk_gives_what_it_gives_in_one_pass(mask_rule, options, tokens, cuts):
    """Tokens come in pieces, by their number in the row."""
    trunk = Transformer(24, 2, 4, mask_rule=rule(mask_rule), **options).double().eval()
    tokens = tokens.with_x(random(len(tokens), 24, seed=7))
    whole, cache = trunk(tokens, causal=True).x, KeyValueCache()
    bounds = [0, *sorted(cuts), 10**6]
    for low, high in zip(bounds, bounds[1:]):
        piece = (tokens.within() >= low) & (tokens.within() < high)
        got = trunk(tokens.keep(piece), causal=True, cache=cache).x
        torch.testing.assert_close(got, whole[piece], rtol=1e-9, atol=1e-12)
    assert len(cache) == len(tokens)


def test_rows_of_a_cache_can_be_chosen_anew():
    trunk = Transformer(24, 2, 4, kv_heads=2).double().eval()
    first, cache = bag_of([3, 2, 4], width=24), KeyValueCache()
    trunk(first, causal=True, cache=cache)
    cache.select(torch.tensor([2, 0, 0]))
    more = bag_of([1, 1, 1], width=24, seed=5)
    got = trunk(more, causal=True, cache=cache).x
    for row, origin in enumerate([2, 0, 0]):
        alone = first.x[first.row == origin]
        both = Tokens.of(
            torch.cat([alone, more.x[row : row + 1]]), torch.tensor([0]), torch.tensor([len(alone) + 1]),
            torch.zeros(len(alone) + 1, 3).double(), "image", 1,
        )  # fmt: skip
        torch.testing.assert_close(got[row], trunk(both, causal=True).x[-1])


def test_grouped_heads_are_the_dense_ones_with_keys_repeated():
    torch.manual_seed(0)
    grouped, plain = Attention(24, 4, kv_heads=2).double(), Attention(24, 4).double()
    q, k, v = grouped.qkv.weight.detach().split([24, 12, 12])
    repeated = [t.unflatten(0, (2, 6)).repeat_interleave(2, 0).flatten(0, 1) for t in (k, v)]
    with torch.no_grad():
        plain.qkv.weight.copy_(torch.cat([q, *repeated]))
        plain.qkv.bias.zero_(), grouped.qkv.bias.zero_()
    plain.out.load_state_dict(grouped.out.state_dict())
    tokens = bag_of([3, 0, 5, 3], width=24)
    layout = layout_of(tokens)
    torch.testing.assert_close(grouped(tokens.x, layout), plain(tokens.x, layout))
    with pytest.raises(ValueError, match="heads of keys"):
        Attention(24, 4, kv_heads=3)


def test_norms_and_activations_are_arguments():
    trunk = Transformer(24, 2, 4, qk_norm=True, norm_layer=nn.RMSNorm, act_layer=nn.SiLU)
    assert all(isinstance(b.norm1, nn.RMSNorm) and isinstance(b.act, nn.SiLU) for b in trunk.blocks)
    assert trunk.blocks[0].attention.q_norm.weight.shape == (6,) and isinstance(
        trunk.norm, nn.RMSNorm
    )
    torch.manual_seed(0)
    x = random(5, 24).float()
    block, layout = trunk.blocks[0], layout_of(bag_of([5], width=24))
    q, k, v = block.attention.qkv(block.norm1(x)).unflatten(1, (3, 4, -1)).unbind(1)
    q, k = (nn.functional.rms_norm(t, (6,)) for t in (q, k))
    mixed = dense(q, k, v, torch.ones(5, 5, dtype=torch.bool)).flatten(1)
    y = x + block.attention.out(mixed)
    want = y + block.down(nn.functional.silu(block.up(nn.functional.rms_norm(y, (24,)))))
    torch.testing.assert_close(block(x, layout)[0], want, rtol=1e-4, atol=1e-5)
    with pytest.raises(AmodalError, match="GELU"):
        Transformer(24, 2, 4, experts=2, act_layer=nn.SiLU)


def test_rows_go_around_a_block_by_their_seeds():
    torch.manual_seed(0)
    trunk = Transformer(24, 4, 4).double()
    tokens, seeds = bag_of([3] * 400, width=24), torch.arange(400) * 7919
    plain = trunk(tokens).x
    with drop_paths(0.5, seeds):
        out = trunk(tokens).x
        drops = [drop_of(b, i, 4, tokens, None) for i, b in enumerate(trunk.blocks)]
        backwards = drop_of(trunk.blocks[3], 3, 4, tokens, torch.arange(1199, -1, -1))
    some = (tokens.row >= 100) & (tokens.row < 150)
    part = Tokens(
        tokens.x[some],
        tokens.row[some] - 100,
        tokens.source[some],
        tokens.position[some],
        tokens.names,
        50,
    )
    with drop_paths(0.5, seeds[100:150]):  # micro-batches agree
        torch.testing.assert_close(trunk(part).x, out[some])
    assert not torch.allclose(out, plain)
    with drop_paths(0.0, seeds):
        torch.testing.assert_close(trunk(tokens).x, plain)
    ones = torch.ones(1200, 1).double()
    for number, drop in enumerate(drops):  # the rate grows from 0 at the first block
        rate = 0.5 * number / 3
        for half in (0, 1):
            scale = drop(ones, half).view(400, 3)
            assert (scale == scale[:, :1]).all()
            assert scale.unique().tolist() == pytest.approx([0, 1 / (1 - rate)] if rate else [1])
            assert abs((scale[:, 0] == 0).double().mean() - rate) < 0.1
    assert not torch.equal(drops[3](ones, 0), drops[3](ones, 1))  # each half draws its own
    torch.testing.assert_close(backwards(ones, 0), drops[3](ones, 0).flip(0))
    for rate in (1.0, -0.1):
        with pytest.raises(AmodalError, match="below 1"), drop_paths(rate, seeds):
            pass


def test_rows_of_one_length_need_no_reordering():
    assert layout_of(bag_of([4, 4, 4])).order is None
    assert len(layout_of(bag_of([4, 0, 4])).groups) == 1


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("norm_layer", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("autocast", [False, True])
def test_without_tokens_every_parameter_gets_a_gradient_of_zeros(kv_heads, norm_layer, autocast):
    """A rank without a value averages gradients with ranks that have some."""
    trunk = Transformer(24, 2, 4, kv_heads=kv_heads, qk_norm=True, norm_layer=norm_layer)
    empty = bag_of([0, 0])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = trunk(replace(empty, x=torch.zeros(0, 24))).x
    out.sum().backward()
    assert {n for n, p in trunk.named_parameters() if p.grad is None} == set()
    assert not any(p.grad.any() for p in trunk.parameters())


def test_a_rule_that_leaves_a_token_nothing_to_read_is_refused():
    tokens = Tokens.join([bag_of([1, 1]), bag_of([1, 0], "text")])
    with pytest.raises(ValueError, match="nothing to read"):
        layout_of(tokens, lambda names: torch.tensor([[False, True], [False, True]]))
    with pytest.raises(AmodalError, match="Did you mean pure"):
        rule("purre")


@RULE
def test_no_token_at_all_keeps_every_parameter_in_the_graph(mask_rule):
    trunk = Transformer(WIDTH, 2, 2, mask_rule=rule(mask_rule)).double()
    out = trunk(bag_of([0, 0]))
    assert out.x.shape == (0, WIDTH)
    out.x.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in trunk.parameters())


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="not divisible"):
        Attention(WIDTH, 5)


# Zorro: what a field says of itself does not depend on the others (arXiv:2301.09595, 3.2)


@quick
@given(tokens=joined(), rotary=st.booleans())
def test_pure_fields_have_no_gradient_to_each_other(tokens, rotary):
    trunk = Transformer(WIDTH, 3, 2, rotary=rotary, mask_rule=rule("pure")).double()
    x = tokens.x.clone().requires_grad_()
    out = trunk(tokens.with_x(x))
    for name in ("image", "text"):
        mine = tokens.source == tokens.index(name)
        (gradient,) = torch.autograd.grad(out.x[mine].square().sum(), x, retain_graph=True)
        assert not gradient[~mine].any()  # exactly zero
        if tokens.keep(mine).lengths().max() > 0:
            assert gradient[mine].any()


@quick
@given(tokens=joined())
def test_dropping_a_field_leaves_what_the_other_says(tokens):
    trunk = Transformer(WIDTH, 3, 2, mask_rule=rule("pure")).double()
    alone = trunk(Tokens.join([tokens.only("image"), tokens.only(FUSED)])).only("image").x
    torch.testing.assert_close(trunk(tokens).only("image").x, alone, rtol=1e-12, atol=1e-12)


def test_how_equal_readouts_are_in_single_precision():
    """Attention itself is the same to the last bit. A linear layer is not when one of the two calls
    has a handful of tokens: matrix libraries then pick another kernel, which sums in another order.
    So readouts agree within rounding."""
    torch.manual_seed(0)
    trunk = Transformer(WIDTH, 3, 2, mask_rule=rule("pure"))
    for numbers in ([5, 0, 7, 30, 1, 5], [1, 0, 0, 0, 0, 0]):
        image, text, fused = (
            bag_of(n, m, dtype=torch.float32)
            for n, m in ((numbers, "image"), ([9] * 6, "text"), ([2] * 6, FUSED))
        )
        q = image.x.view(-1, 2, WIDTH // 2)
        both = Tokens.join([image, text])
        mixed = ours(both, "pure", *[both.x.view(-1, 2, WIDTH // 2)] * 3)[both.source == 0]
        assert torch.equal(ours(image, "pure", q, q, q), mixed)
        whole = trunk(Tokens.join([image, text, fused])).only("image").x
        torch.testing.assert_close(
            trunk(Tokens.join([image, fused])).only("image").x, whole, rtol=1e-5, atol=5e-6
        )


# Nothing but its own row enters a token


@RULE
@pytest.mark.parametrize("rotary", [False, True])
@quick
@given(tokens=joined(), data=st.data())
def test_a_row_does_not_depend_on_the_other_rows(mask_rule, rotary, tokens, data):
    trunk = Transformer(WIDTH, 2, 2, rotary=rotary, mask_rule=rule(mask_rule)).double()
    out = trunk(tokens).x
    row = data.draw(st.integers(0, tokens.size - 1))
    mine = tokens.row == row
    torch.testing.assert_close(trunk(tokens.keep(mine)).x, out[mine], rtol=1e-10, atol=1e-11)
    x = tokens.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(trunk(tokens.with_x(x)).x[mine].square().sum(), x)
    assert not gradient[~mine].any()


def test_collect_sees_every_blocks_mlp_in_the_order_of_the_tokens():
    trunk = Transformer(WIDTH, 3, 2).double()
    tokens = bag_of([3, 1, 2])
    seen = []

    def mean(outputs, inputs):
        seen.append((len(outputs), inputs is tokens))
        return torch.stack(outputs).mean(0)

    out = trunk(tokens, mean).x
    assert seen == [(3, True)] and out.shape == tokens.x.shape
    each = torch.cat([trunk(tokens.keep(tokens.row == r), mean).x for r in range(3)])
    torch.testing.assert_close(out, each, rtol=1e-10, atol=1e-11)


# Positions


def test_rotary_scores_depend_on_differences_of_position_alone():
    position = random(7, 3).mul(5)
    q, k = random(7, 2, 20, seed=1), random(7, 2, 20, seed=2)

    def scores(shift):
        turn = Rotary(position + shift, 20)
        return torch.einsum("ahd,bhd->hab", turn(q), turn(k))

    torch.testing.assert_close(
        scores(0), scores(torch.tensor([3.0, -1.5, 20.0])), rtol=1e-9, atol=1e-9
    )
    assert not torch.allclose(scores(0), torch.einsum("ahd,bhd->hab", q, k))
    torch.testing.assert_close(Rotary(position * 0, 20)(q), q)  # at the origin nothing turns
    torch.testing.assert_close(Rotary(position, 20)(q).norm(dim=2), q.norm(dim=2))
    with pytest.raises(AmodalError, match="at least 6 wide, not 4"):
        Rotary(position, 4)


def test_a_rotary_trunk_does_not_see_a_shift_of_a_row():
    trunk = Transformer(WIDTH, 2, 2, rotary=True).double()
    tokens = bag_of([4, 2])
    moved = Tokens(
        tokens.x,
        tokens.row,
        tokens.source,
        tokens.position + tokens.row[:, None] * 7,
        tokens.names,
        tokens.size,
    )
    torch.testing.assert_close(trunk(moved).x, trunk(tokens).x, rtol=1e-9, atol=1e-10)
