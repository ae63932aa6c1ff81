"""A bias of attention is added to the logits of dense attention, whatever is masked or missing."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import WIDTH, bag_of, joined, lengths, quick, random

from amodal import modalities
from amodal.core import AmodalError, Ragged, Tokens
from amodal.core.embeddings import FUSED
from amodal.nn import config as encoder_config
from amodal.nn.attention import cpu
from amodal.nn.attention.bias import NOWHERE, Alibi2d, CrossBias, alibi_slopes, with_bias
from amodal.nn.attention.cache import KeyValueCache
from amodal.nn.attention.cross import CrossEncoder
from amodal.nn.attention.masks import rule
from amodal.nn.attention.prefix import with_prefix
from amodal.nn.attention.varlen import attend, layout_of
from amodal.nn.encoder import Encoder
from amodal.nn.inserted_tokens import insert, without_prompts
from amodal.nn.transformer import Transformer
from tests.methods.bench import batch, exact, fields
from tests.nn.test_attention import RULE, allowed, in_order

HEADS = 2


class Radius:
    """Tokens within a distance are read, others are not: another bias than ALiBi."""

    def __init__(self, radius):
        self.radius = radius

    def __call__(self, query, key):
        far = torch.cdist(query, key) > self.radius
        return torch.zeros_like(far, dtype=query.dtype).masked_fill(far, -torch.inf).unsqueeze(1)


BIASES = {"alibi": Alibi2d(HEADS), "radius": Radius(1.5)}
BIAS = pytest.mark.parametrize("bias", list(BIASES))


def entry(name, head, one, other):
    """What is added between two places, in words."""
    distance = math.dist(one.tolist(), other.tolist())
    if name == "radius":
        return -math.inf if distance > 1.5 else 0.0
    return -distance * 2.0 ** (-8 * (head + 1) / HEADS)


def table(name, position, space):
    """(H, T, T)."""
    count = len(position)
    return torch.tensor(
        [
            [
                [
                    entry(name, h, position[i], position[j])
                    if space[i] == space[j] != NOWHERE
                    else 0.0
                    for j in range(count)
                ]
                for i in range(count)
            ]
            for h in range(HEADS)
        ],
        dtype=position.dtype,
    ).view(HEADS, count, count)


def dense(q, k, v, mask, added):
    heads = []
    for h in range(q.shape[1]):
        logits = q[:, h] @ k[:, h].T / q.shape[2] ** 0.5 + added[h]
        heads.append(logits.masked_fill(~mask, -torch.inf).softmax(1) @ v[:, h])
    return torch.stack(heads, 1)


def assert_dense(tokens, name, mask_rule="full", causal=False, spaces=None, prefix=0):
    width = 6
    q, k, v = (random(len(tokens), HEADS, width, seed=s).requires_grad_() for s in range(3))
    space = None if spaces is None else torch.tensor(spaces)[tokens.source]
    layout = with_bias(
        layout_of(tokens, rule(mask_rule), causal), tokens.position, BIASES[name], space
    )
    assert all(g.bias is not None and g.mask is None for g in layout.groups)
    mask = allowed(tokens, mask_rule)
    mask = mask & in_order(tokens) if causal else mask
    known = torch.zeros(len(tokens), dtype=torch.int64) if space is None else space
    added = table(name, tokens.position, known)
    own, every = [layout.enter(k), layout.enter(v)], [k, v]
    if prefix:
        made = [random(tokens.size, prefix, HEADS * width, seed=s) for s in (4, 5)]
        layout = with_prefix(layout, *made)
        split = [p.flatten(0, 1).unflatten(1, (HEADS, -1)) for p in made]
        theirs = torch.repeat_interleave(torch.arange(tokens.size), prefix) == tokens.row[:, None]
        mask = torch.cat([theirs, mask], 1)
        added = torch.cat([added.new_zeros(HEADS, *theirs.shape), added], 2)
        own = [torch.cat(pair) for pair in zip(own, split)]
        every = [torch.cat(pair) for pair in zip(split, every)]
    got = layout.leave(attend(layout.enter(q), *own, layout))
    want = dense(q, *every, mask, added)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    weight = random(*got.shape, seed=9)
    gradients = [
        torch.autograd.grad((x * weight).sum(), (q, k, v), materialize_grads=True)
        for x in (got, want)
    ]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@BIAS
@RULE
@quick
@given(tokens=joined(), causal=st.booleans(), prefix=st.sampled_from([0, 2]))
def test_a_bias_is_dense_attention_with_a_table(bias, mask_rule, tokens, causal, prefix):
    assert_dense(tokens, bias, mask_rule, causal, prefix=prefix)


@BIAS
@quick
@given(tokens=joined(), spaces=st.sampled_from([(0, 0, NOWHERE), (0, 1, NOWHERE), (1, NOWHERE, 1)]))
def test_tokens_of_other_spaces_and_of_no_place_have_no_distance(bias, tokens, spaces):
    assert_dense(tokens, bias, spaces=list(spaces))


@BIAS
@quick
@given(lengths, st.integers(0, 5))
def test_tokens_that_are_hidden_change_nothing_between_the_others(bias, numbers, seed):
    """The table of what is shown is that of all, gathered."""
    tokens = bag_of(numbers)
    shown = torch.rand(len(tokens), generator=torch.Generator().manual_seed(seed)) < 0.5
    part = tokens.keep(shown)
    q, k, v = (random(len(tokens), HEADS, 4, seed=s) for s in range(3))
    layout = with_bias(layout_of(part), part.position, BIASES[bias])
    got = layout.leave(attend(*(layout.enter(t[shown]) for t in (q, k, v)), layout))
    added = table(bias, tokens.position, torch.zeros(len(tokens)))
    want = dense(q, k, v, allowed(tokens, "full") & shown, added)[shown]
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_on_the_cpu_does_not_leave_the_bias_out(dtype, monkeypatch):
    monkeypatch.setattr("amodal.nn.attention.cpu.are_fast", lambda q: True)
    tokens = bag_of([5, 3, 5], dtype=dtype)
    q, k, v = (random(len(tokens), HEADS, 8, seed=s, dtype=dtype) for s in range(3))
    assert cpu.suits(q[None], k[None])
    layout = with_bias(layout_of(tokens), tokens.position, Alibi2d(HEADS))
    got = layout.leave(attend(*(layout.enter(t) for t in (q, k, v)), layout))
    added = table("alibi", tokens.position.double(), torch.zeros(len(tokens)))
    mask = allowed(tokens, "full")
    want, without = (
        dense(q.double(), k.double(), v.double(), mask, added * on).to(dtype) for on in (1, 0)
    )
    tolerance = 3e-2 if dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
    assert (got - without).abs().max() > 5 * tolerance


def test_one_table_of_a_forward_pass_serves_all_layers():
    calls = []

    def counted(query, key):
        calls.append(query.shape)
        return Alibi2d(4)(query, key)

    encoder = Encoder(fields(("words",)), size="tiny", positions="alibi")
    trunk = encoder.trunks["words"]
    trunk.set_bias(replace(trunk.bias, bias=counted))
    tokens = bag_of([4, 4], "words", width=encoder.width, dtype=torch.float32)
    plain = trunk(tokens)
    assert len(trunk.blocks) == 4 and len(calls) == 1
    hooked = trunk(tokens, block_hook=lambda i, t, block: block(t))
    assert len(calls) == 2
    torch.testing.assert_close(hooked.x, plain.x)


def test_a_layout_is_biased_anew_where_positions_change():
    """Between blocks the same rows and sources may stand at other places."""
    encoder = Encoder(fields(("words",)), size="nano", positions="alibi")
    trunk, moved = encoder.trunks["words"], []

    def hook(i, tokens, block):
        place = tokens.position * (3 if i else 1)
        moved.append(block(replace(tokens, position=place)))
        return moved[-1]

    tokens = bag_of([4], "words", width=encoder.width, dtype=torch.float32)
    trunk(tokens, block_hook=hook)
    want = trunk.block(1, replace(moved[0], position=tokens.position * 3))
    torch.testing.assert_close(moved[1].x, want.x)


def test_a_cache_and_a_prefix_have_no_places():
    tokens = bag_of([2, 3])
    prefix = with_prefix(layout_of(tokens), *(random(2, 1, WIDTH, seed=s) for s in (0, 1)))
    for layout in (prefix, layout_of(tokens, cache=KeyValueCache())):
        with pytest.raises(ValueError, match="have none"):
            with_bias(layout, tokens.position, Alibi2d(HEADS))


def test_slopes_are_those_of_the_paper():
    assert alibi_slopes(8) == tuple(2.0**-k for k in range(1, 9))
    assert alibi_slopes(16)[:2] == (2**-0.5, 2**-1)
    # those of 8 heads, then every second one of 16
    assert alibi_slopes(12) == tuple(
        [2.0**-k for k in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    )
    assert alibi_slopes(1) == (2.0**-8,)
    assert alibi_slopes(6)[4:] == (2**-1.0, 2**-3.0)


# Cross-attention


@BIAS
@quick
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 4]), st.sampled_from([0, 1, 3, 4])),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_cross_attention_adds_the_bias(bias, numbers, spaces):
    """Row by row, with matrices."""
    torch.manual_seed(0)
    module = CrossEncoder(WIDTH, 2, HEADS).double()
    queries, keys = bag_of([a for a, _ in numbers]), bag_of([b for _, b in numbers], seed=5)
    if bias == "radius":  # every query has a key that it may read
        keys = replace(keys, position=keys.position / 10)
        queries = replace(queries, position=queries.position / 10)
    spaces_q, spaces_k = (
        (torch.arange(len(t)) % 3 - 1 if spaces else None) for t in (queries, keys)
    )
    made = CrossBias(BIASES[bias], queries.position, keys.position, spaces_q, spaces_k)
    lists = [Ragged(t.x, t.lengths()) for t in (queries, keys)]
    got, weights = module.with_weights(*lists, bias=made)
    assert torch.equal(module(*lists, bias=made).flat.isnan(), torch.zeros_like(got.flat).bool())
    torch.testing.assert_close(module(*lists, bias=made).flat, got.flat)
    for row, x in enumerate(got.split()):
        q, k = queries.row == row, keys.row == row
        place = torch.cat([queries.position[q], keys.position[k]])
        space = torch.zeros(len(place))
        if spaces:
            space = torch.cat([spaces_q[q], spaces_k[k]])
        added, n = table(bias, place, space), int(q.sum())
        want = naive(module, queries.x[q], keys.x[k], added[:, :n, :n], added[:, :n, n:])
        torch.testing.assert_close(x, want, rtol=1e-9, atol=1e-12)
    assert weights.isfinite().all()


def naive(module, x, y, among, across):
    y = module.norm_keys(y)
    for block in module.blocks:
        z = block.norm1(x)
        x = x + read(block.self_attention, z, z, among)
        x = x + read(block.cross_attention, block.norm2(x), y, across)
        x = x + block.down(torch.nn.functional.gelu(block.up(block.norm3(x))))
    return module.norm(x)


def read(attention, x, y, added):
    if not len(x) or not len(y):
        return attention.out(torch.zeros_like(x))
    q = attention.query(x).unflatten(1, (HEADS, -1))
    k, v = attention.key_value(y).unflatten(1, (2, HEADS, -1)).unbind(1)
    mask = torch.ones(len(x), len(y), dtype=torch.bool)
    return attention.out(dense(q, k, v, mask, added).flatten(1))


# Encoders


def grid(side, step=1.0):
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double() * step
    return torch.nn.functional.pad(place, (1, 0))


def tokens_of(name, position, size=1):
    x = random(len(position), 64, seed=len(name))
    return Tokens.of(x, torch.arange(size), torch.tensor([len(position)]), position, name, size)


def trunk_by_table(trunk, x, added):
    """A trunk over one row, with what is added to its logits."""
    mask = torch.ones(len(x), len(x), dtype=torch.bool)
    for block in trunk.blocks:
        q, k, v = block.attention.qkv(block.norm1(x)).unflatten(1, (3, HEADS, -1)).unbind(1)
        x = x + block.attention.out(dense(q, k, v, mask, added).flatten(1))
        x = x + block.down(block.act(block.up(block.norm2(x))))
    return trunk.norm(x)


def rasters(**sizes):
    return {
        name: modalities.make("raster", bands=("a",), size=16, patch=4, resolution=resolution)
        for name, resolution in sizes.items()
    }


def test_fields_of_other_ground_sizes_are_measured_in_common_units():
    """A token of 20 m pixels is two steps of one of 10 m pixels, and its centre half a step
    further than its corner; class tokens are nowhere."""
    made = {**rasters(fine=10.0, coarse=20.0, unknown=0.0), **fields(("words",))}
    encoder = Encoder(made, size="nano", positions="alibi", trunk="joint", pool="cls").double()
    assert encoder.trunks["all"].bias.steps == {"fine": 1, "coarse": 2, "unknown": 1, "words": 1}
    places = {"fine": grid(3), "coarse": grid(2), "unknown": grid(2), "words": grid(2)}
    every = {f: tokens_of(f, place) for f, place in places.items()}
    got = encoder.encode(every)
    centres = {"coarse": grid(2, 2.0) + torch.tensor([0, 0.5, 0.5])}
    x, place, space = [], [], []
    for f, tokens in every.items():
        x += [encoder.pools[f].token[None], tokens.x]
        place += [torch.zeros(1, 3).double(), centres.get(f, places[f])]
        space += [NOWHERE] + [7 if f == "words" else 0] * len(tokens)
    added = table("alibi", torch.cat(place), torch.tensor(space))
    want = trunk_by_table(encoder.trunks["all"], torch.cat(x), added)
    torch.testing.assert_close(torch.cat([got[f].x for f in every]), want, rtol=1e-9, atol=1e-11)


def test_prompts_and_fusion_tokens_are_nowhere():
    encoder = Encoder(
        fields(("picture",)), size="nano", positions="alibi", trunk="joint", fusion_tokens=2
    ).double()
    trunk, tokens = encoder.trunks["all"], tokens_of("picture", grid(3) + 2)
    learned = encoder.routing.fusion_tokens
    x = torch.cat([tokens.x, learned])
    space = torch.tensor([0] * 9 + [NOWHERE] * 2)
    place = torch.cat([tokens.position, torch.zeros(2, 3).double()])
    want = trunk_by_table(trunk, x, table("alibi", place, space))
    got = encoder.encode({"picture": tokens})
    torch.testing.assert_close(got["picture"].x, want[:9], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(got[FUSED].x, want[9:], rtol=1e-9, atol=1e-11)
    prompts = random(1, 2, 64, seed=3)

    def hook(i, tokens, block):
        if i:
            return block(tokens)
        return without_prompts(block(insert(tokens, torch.tensor([0]), prompts)))

    one = trunk.block(0, insert(tokens, torch.tensor([0]), prompts))
    far = replace(tokens, position=tokens.position + 100)
    other = trunk.block(0, insert(far, torch.tensor([0]), prompts))
    torch.testing.assert_close(one.x, other.x)
    assert len(trunk(tokens, block_hook=hook)) == len(tokens)


@pytest.mark.parametrize("kind", ["separate", "shared", "joint"])
@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_an_encoder_sees_distances_alone(kind, pool):
    """No table of positions: a shift of all tokens changes nothing, another order of them does."""
    torch.manual_seed(0)
    encoder = exact(Encoder(fields(), size="nano", positions="alibi", trunk=kind, pool=pool))
    assert encoder.position is None
    tokens = encoder.tokenize(exact(batch(("plain",))))
    shifted = {s: replace(t, position=t.position + 5) for s, t in tokens.items()}
    moved = {s: replace(t, position=t.position.flip(0) ** 2) for s, t in tokens.items()}
    first, same, other = (encoder.encode(t) for t in (tokens, shifted, moved))
    for s in tokens:
        torch.testing.assert_close(first[s].x, same[s].x, rtol=1e-5, atol=1e-6)
    assert max(float((first[s].x - other[s].x).detach().abs().max()) for s in tokens) > 1e-3


def test_blocks_on_top_of_a_tower_have_its_bias_and_so_does_a_saved_encoder():
    encoder = Encoder(fields(("picture", "words")), size="nano", positions="alibi")
    encoder.extend("words", 1)
    rebuilt = encoder_config.build(encoder.spec)
    for made in (encoder, rebuilt):
        assert made.extra_blocks["words"].bias.pools is made.pools
        assert made.trunks["picture"].bias is not None
    rebuilt.load_state_dict(encoder.state_dict())
    plain = batch(("plain",), sources=("picture", "words"))
    for s, column in encoder(plain).columns.items():
        torch.testing.assert_close(rebuilt(plain)[s].values, column.values)


@pytest.mark.parametrize("mixer", ["gru", "brnn", "dilated"])
def test_trunks_without_attention_are_refused(mixer):
    with pytest.raises(AmodalError, match="bias of attention, and the trunk of 'words' is a"):
        Encoder(fields(("words",)), size="nano", positions="alibi", mixer=mixer)


def test_no_bias_costs_nothing():
    trunk = Transformer(WIDTH, 1, HEADS)
    assert trunk.bias is None and not layout_of(bag_of([2, 3])).is_biased
