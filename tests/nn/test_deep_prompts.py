"""Tokens between the blocks of a trunk, against one row at a time in dense matrices."""

import itertools

import pytest
import torch
from hypothesis import given
from test_attention import allowed, dense
from test_encoder import batch, close, encoder_of
from toys import WIDTH, bag_of, joined, quick, random, vectors

from amodal.core import AmodalError, Tokens
from amodal.core.part import build, to_spec
from amodal.export.dense_encoder import why_not_exportable
from amodal.nn.adapters.block_tokens import hook_disabled, require_no_hook
from amodal.nn.adapters.deep_prompts import PatternPrompts, pattern_prompts
from amodal.nn.attention.masks import RULES, rule
from amodal.nn.attention.prefix import with_prefix
from amodal.nn.attention.varlen import attend, layout_of
from amodal.nn.inserted_tokens import PROMPT
from amodal.nn.transformer import Transformer


def trunk_of(depth=3, **options):
    torch.manual_seed(0)
    return Transformer(WIDTH, depth, 2, **options).double()


def two_fields():
    return Tokens.join([bag_of([2, 0, 3, 0, 1], "image"), bag_of([1, 4, 0, 0, 2], "text", seed=5)])


def dense_block(block, x, key=None, value=None):
    """A block on the (n, D) tokens of one row, written from its definition; keys and values (P, D)
    of a prefix before its own."""
    attention = block.attention
    q, k, v = attention.qkv(block.norm1(x)).chunk(3, 1)
    k, v = (t if more is None else torch.cat([more, t]) for t, more in ((k, key), (v, value)))
    heads = []
    for i in range(attention.heads):
        part = slice(i * q.shape[1] // attention.heads, (i + 1) * q.shape[1] // attention.heads)
        score = q[:, part] @ k[:, part].T / (q.shape[1] // attention.heads) ** 0.5
        heads.append(score.softmax(1) @ v[:, part])
    x = x + attention.out(torch.cat(heads, 1))
    return x + block.down(torch.nn.functional.gelu(block.up(block.norm2(x))))


def number_of(tokens, row, fields):
    has = {tokens.names[s] for s, r in zip(tokens.source.tolist(), tokens.row.tolist()) if r == row}
    subsets = [set(c) for n in range(1, len(fields) + 1) for c in itertools.combinations(fields, n)]
    return sorted(sum(2 ** fields.index(s) for s in c) for c in subsets).index(
        sum(2 ** fields.index(s) for s in has)
    )


def reference(trunk, tokens, prompts, fields):
    """Row by row what prompts do, from the paper's section 3.3."""
    done = torch.empty_like(tokens.x)
    for row in set(tokens.row.tolist()):
        x = tokens.x[tokens.row == row]
        n, own = (
            len(x),
            prompts.tokens[number_of(tokens, row, fields) if prompts.missing_aware else 0],
        )
        for i, block in enumerate(trunk.blocks):
            key = value = None
            if i < prompts.layers and prompts.level == "attention":
                key, value = own[i][: prompts.length // 2], own[i][prompts.length // 2 :]
            elif i < prompts.layers:
                x = torch.cat([own[i], x if prompts.accumulate else x[-n:]])
            x = dense_block(block, x, key, value)
        done[tokens.row == row] = trunk.norm(x[-n:])
    return done


@pytest.mark.parametrize("mask_rule", list(RULES))
@quick
@given(tokens=joined())
def test_prefix_keys_are_read_by_all_tokens_of_their_row(mask_rule, tokens):
    heads, width, count = 2, 6, 3
    q, k, v = (random(len(tokens), heads, width, seed=s) for s in range(3))
    key, value = (random(tokens.size, count, heads * width, seed=s) for s in (4, 5))
    layout = with_prefix(layout_of(tokens, rule(mask_rule)), key, value)
    order = torch.arange(len(tokens)) if layout.order is None else layout.order
    more = [
        torch.cat([own[order], g.unflatten(1, (heads, -1))])
        for own, g in zip((k, v), layout.prefix)
    ]
    got = attend(q[order], *more, layout)[torch.argsort(order)]
    theirs = torch.repeat_interleave(torch.arange(tokens.size), count) == tokens.row[:, None]
    every = [
        torch.cat([g.flatten(0, 1).unflatten(1, (heads, -1)), own])
        for own, g in zip((k, v), (key, value))
    ]
    torch.testing.assert_close(
        got, dense(q, *every, torch.cat([theirs, allowed(tokens, mask_rule)], 1))
    )


@pytest.mark.parametrize(
    "options", [{}, {"rotary": True}, {"mask_rule": rule("pure")}, {"experts": 2}]
)
def test_block_by_block_is_the_trunk(options):
    trunk, tokens = trunk_of(**options), two_fields()
    inner = tokens
    for i in range(3):
        inner = trunk.block(i, inner)
    torch.testing.assert_close(trunk.norm(inner.x), trunk(tokens).x)
    torch.testing.assert_close(
        trunk(tokens, block_hook=lambda i, t, block: block(t)).x, trunk(tokens).x
    )


def test_blocks_plan_anew_when_tokens_came_or_went(monkeypatch):
    made = []
    monkeypatch.setattr(
        "amodal.nn.transformer.layout_of", lambda *a: made.append(1) or layout_of(*a)
    )
    trunk, tokens = trunk_of(4), two_fields()
    assert (trunk(tokens, block_hook=lambda i, t, block: block(t)), len(made))[1] == 1
    prompts = PatternPrompts(["image", "text"], WIDTH, 4, length=2, layers=2).double()
    made.clear()
    trunk(
        tokens, block_hook=prompts
    )  # 2 blocks with more tokens than before, and the rest with as many
    assert len(made) == 2


@pytest.mark.parametrize("aware", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 9])
@pytest.mark.parametrize("level, grow", [("input", True), ("input", False), ("attention", True)])
def test_prompts_of_the_fields_that_a_row_has(level, grow, layers, aware):
    trunk, tokens, fields = trunk_of(), two_fields(), ["image", "text"]
    options = {
        "length": 4,
        "layers": layers,
        "level": level,
        "accumulate": grow,
        "missing_aware": aware,
    }
    prompts = PatternPrompts(fields, WIDTH, 3, **options).double()
    got = trunk(tokens, block_hook=prompts)
    torch.testing.assert_close(got.x, reference(trunk, tokens, prompts, fields))
    assert got.names == tokens.names and torch.equal(got.source, tokens.source)
    got.x.square().sum().backward()
    reached = prompts.tokens.grad.abs().sum((2, 3)) > 0
    assert reached.all() and prompts.tokens.shape == (3 if aware else 1, min(layers, 3), 4, WIDTH)


def test_rows_differ_by_what_they_lack_alone():
    trunk, prompts = trunk_of(), PatternPrompts(["image", "text"], WIDTH, 3, length=4).double()
    image = bag_of([2, 2], "image")
    image = image.with_x(image.x[:2].repeat(2, 1))  # the same picture twice, once without a text
    assert prompts.pattern(Tokens.join([image, bag_of([3, 0], "text")])).tolist() == [2, 0]
    assert prompts.pattern(Tokens.join([image, bag_of([0, 0], "text")])).tolist() == [0, 0]
    assert prompts.pattern(bag_of([1, 0], "text:2")).tolist() == [1, 0]
    assert PROMPT not in trunk(image, block_hook=prompts).names


def test_an_encoder_keeps_its_prompts_and_is_itself_without_them():
    encoder, whole = encoder_of("joint"), batch()
    before = vectors(encoder(whole))
    encoder.set_block_hook(pattern_prompts(encoder, length=2, level="attention").double())
    after = vectors(encoder(whole))
    assert all((after[key] - before[key]).abs().max() > 1e-4 for key in before)
    with hook_disabled(encoder):
        close(vectors(encoder(whole)), before)
    rebuilt = build(encoder.block_hook.spec).double()
    rebuilt.load_state_dict(encoder.block_hook.state_dict())
    assert (
        to_spec(encoder._args["block_hook"]) == rebuilt.spec
    )  # what the encoder's own description holds
    assert "no dense form" in why_not_exportable(encoder, "image")
    with pytest.raises(AmodalError, match="begin with the run"):
        require_no_hook(encoder)
    encoder.set_block_hook(rebuilt)
    close(vectors(encoder(whole)), after)
    for row in range(whole.size):
        one = {(row, s): v for (_, s), v in vectors(encoder(whole.between(row, row + 1))).items()}
        close(one, {key: v for key, v in after.items() if key[0] == row})


def test_what_does_not_go_together_is_said():
    with pytest.raises(AmodalError, match='trunk="separate"'):
        pattern_prompts(encoder_of("separate"))
    with pytest.raises(AmodalError, match='the rule "pure"'):
        pattern_prompts(encoder_of("joint", fusion="pure"))
    with pytest.raises(AmodalError, match="Did you mean attention"):
        PatternPrompts(["a"], WIDTH, 2, level="atention")
    with pytest.raises(AmodalError, match="even number"):
        PatternPrompts(["a"], WIDTH, 2, level="attention", length=3)
    with pytest.raises(AmodalError, match="2047 ways"):
        PatternPrompts([str(i) for i in range(11)], WIDTH, 2)
    with pytest.raises(AmodalError, match="cannot be found here"):
        build({"part": "nn.adapters.deep_prompts:PaternPrompts", "args": {}})
    with pytest.raises(ValueError, match="5 leave it"):
        trunk_of()(
            bag_of([3]),
            block_hook=lambda i, t, block: (
                Tokens.join([t, bag_of([1], "more", seed=i)]) if i < 2 else t
            ),
        )
    with pytest.raises(AmodalError, match="without a block hook"):
        trunk_of()(bag_of([3]), collector=lambda *a: a, block_hook=lambda i, t, block: t)
